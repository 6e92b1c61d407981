// Convolution of every sample b with its own mixture  sum_k mix[b,k] W_k  of K shared kernels, on the CPU.
//
// The mixed kernels (B of them, each as large as W_k) are never stored: a block of W is copied to the cache
// once, and for every sample the block is mixed, used at once and forgotten.  The layout makes all three
// convolutions the same few loops:
//   * activations are copied to [pixel][channel], weights to [tap][k][depth][lane]: a vector ("lanes") runs
//   over
//     the channels that are written, the depth over the channels that are summed;
//   * geometry (stride, padding, dilation) lives in a table of tiles, the runs of pixels that one tap
//   connects;
//     padded taps are simply absent from it.  The input gradient is the forward pass with that table
//     reversed.
// Every sum has one fixed order that depends on shapes alone, so results are the same for any number of
// threads, and a sample's results do not depend on the rest of its batch.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sum.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <optional>
#include <vector>

#include "convolve.h"
#include "geometry.h"
#include "gradients.h"
#include "layouts.h"
#include "tensors.h"
#include "updates.h"
#include "vectors.h"

namespace {

using at::IntArrayRef;
using at::Tensor;
using namespace fedfmd;

// sums[pixel][lane] = (sums + shift) * scale, either absent if null.
void shift_and_scale(float* sums, const float* shift, const float* scale, int64_t count, int64_t width,
                     int64_t pixels) {
  if (!shift && !scale) return;
  std::array<float, kMaxVectors * kLanes> shifts, scales;
  load_lanes(shift, count, width, 0.f, shifts.data());
  load_lanes(scale, count, width, 1.f, scales.data());
  for (int64_t p = 0; p < pixels; p++, sums += width)
    for (int64_t j = 0; j < width; j += kLanes)
      ((Vec::loadu(sums + j) + Vec::loadu(&shifts[j])) * Vec::loadu(&scales[j])).store(sums + j);
}

Tensor forward(const Tensor& x_, const Tensor& weight_, const Tensor& mix_, const OptTensor& bias_,
               const OptTensor& input_scale_, const OptTensor& output_scale_, IntArrayRef stride,
               IntArrayRef padding, IntArrayRef dilation, int64_t groups) {
  const Tensor x = x_.contiguous(), weight = weight_.contiguous(), mix = mix_.contiguous();
  const OptTensor bias = contiguous(bias_), input_scale = contiguous(input_scale_),
                  output_scale = contiguous(output_scale_);
  const Shape s = shape_of(x, weight, mix, stride, padding, dilation, groups);
  const Direction way(s, false);
  Tensor y = at::empty({s.batch, groups * s.out_channels, s.out_h, s.out_w}, x.options());
  float* to = changed(y);
  const float *shift = values(bias), *scale = values(output_scale);
  const Activations from{values(x), values(input_scale), way.depth, s.batch, groups, way.from_pixels};
  convolve(s, way, {values(weight), values(mix)}, from,
           [&](int64_t b, int64_t group, int64_t block, float* sums) {
             const int64_t width = way.lanes.width, count = way.lanes.in_block(block);
             const int64_t channel = (b * groups + group) * s.out_channels + block * width;
             shift_and_scale(sums, shift ? shift + channel : nullptr, scale ? scale + channel : nullptr,
                             count, width, way.to_pixels);
             transpose(sums, width, to + channel * way.to_pixels, way.to_pixels, way.to_pixels, count);
           });
  return y;
}

// Multiplies the gradient of the scaled input by the scale; returns the scale's own, its product with the
// input.
float scale_gradient(float* gradient, const float* x, float scale, int64_t pixels) {
  Vec lanes(0.f);
  int64_t p = 0;
  for (; p + kLanes <= pixels; p += kLanes) {
    const Vec g = Vec::loadu(gradient + p);
    lanes = at::vec::fmadd(g, Vec::loadu(x + p), lanes);
    (g * Vec(scale)).store(gradient + p);
  }
  float sum = add_lanes(lanes);
  for (; p < pixels; p++) {
    sum += x[p] * gradient[p];
    gradient[p] *= scale;
  }
  return sum;
}

void input_gradients(const Shape& s, const Tensor& x, const Tensor& weight, const Tensor& mix,
                     const Tensor& grad, const OptTensor& input_scale, const OptTensor& output_scale,
                     Tensor& grad_x, Tensor& grad_scale) {
  const Direction way(s, true);
  const Activations from{values(grad), values(output_scale), way.depth, s.batch, s.groups, way.from_pixels};
  const float *input = values(x), *scale = values(input_scale);
  float *to = changed(grad_x), *to_scale = changed(grad_scale);
  convolve(s, way, {values(weight), values(mix)}, from,
           [&](int64_t b, int64_t group, int64_t block, float* sums) {
             const int64_t width = way.lanes.width, count = way.lanes.in_block(block), pixels = way.to_pixels;
             const int64_t first = (b * s.groups + group) * s.in_channels + block * width;
             transpose(sums, width, to + first * pixels, pixels, pixels, count);
             if (!scale) return;
             for (int64_t c = first; c < first + count; c++)
               to_scale[c] = scale_gradient(to + c * pixels, input + c * pixels, scale[c], pixels);
           });
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// Where W takes its step here (updates.h), its gradient is empty.
Gradients backward(const Tensor& grad_, const Tensor& x_, const Tensor& weight_, const Tensor& mix_,
                   const OptTensor& bias_, const OptTensor& input_scale_, const OptTensor& output_scale_,
                   IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation, int64_t groups,
                   std::array<bool, 2> needs) {
  const auto update = needs[1] ? update_of(weight_) : std::nullopt;
  const Tensor grad = grad_.contiguous(), x = x_.contiguous(), weight = weight_.contiguous(),
               mix = mix_.contiguous();
  const OptTensor bias = contiguous(bias_), input_scale = contiguous(input_scale_),
                  output_scale = contiguous(output_scale_);
  const Shape s = shape_of(x, weight, mix, stride, padding, dilation, groups);
  // Results that are not wanted are empty.
  const auto like = [&](bool wanted, IntArrayRef sizes) {
    return at::empty(wanted ? sizes : IntArrayRef{0}, x.options());
  };
  Tensor grad_x = like(needs[0], x.sizes()),
         grad_input_scale = like(needs[0] && input_scale, {s.batch, x.size(1)});
  Tensor grad_weight = like(needs[1] && !update, weight.sizes()), grad_mix = like(needs[1], mix.sizes());
  Tensor grad_bias = like(false, {}), grad_output_scale = like(needs[1], {s.batch, weight.size(1)});
  const auto for_input = [&] {
    if (needs[0])
      input_gradients(s, x, weight, mix, grad, input_scale, output_scale, grad_x, grad_input_scale);
  };
  if (update) for_input();  // from W as it was
  if (needs[1]) {
    const Activations in{values(x), values(input_scale), Lanes(s.in_channels), s.batch, groups, s.in_pixels()};
    const Activations out{values(grad), nullptr, Lanes(s.out_channels), s.batch, groups, s.out_pixels()};
    weight_gradients({s,
                      in,
                      out,
                      make_tiles(s, false, kPixelBlock, false),
                      {values(weight), values(mix)},
                      values(output_scale)},
                     {changed(grad_weight), update, changed(grad_mix), changed(grad_output_scale)});
    if (bias) {
      const Tensor sums = at::sum(grad, {2, 3});
      grad_bias = output_scale ? at::mul(sums, *output_scale) : sums;
      if (output_scale) grad_output_scale.add_(at::mul(sums, *bias));
    }
    if (!output_scale) grad_output_scale = like(false, {});
  }
  if (!update) for_input();  // last, because it is what the next step of the backward pass reads
  return {grad_x, grad_weight, grad_mix, grad_bias, grad_input_scale, grad_output_scale};
}

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct MixedConv2d : torch::autograd::Function<MixedConv2d> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight, const Tensor& mix,
                        const OptTensor& bias, const OptTensor& input_scale, const OptTensor& output_scale,
                        IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation, int64_t groups) {
    const auto wanted = [](const OptTensor& t) { return t && t->requires_grad(); };
    ctx->save_for_backward({x, weight, mix, bias.value_or(Tensor()), input_scale.value_or(Tensor()),
                            output_scale.value_or(Tensor())});
    ctx->saved_data["window"] =
        std::vector<int64_t>{stride[0], stride[1], padding[0], padding[1], dilation[0], dilation[1], groups};
    ctx->saved_data["for_input"] = wanted(x) || wanted(input_scale);
    ctx->saved_data["for_weight"] = wanted(weight) || wanted(mix) || wanted(bias) || wanted(output_scale);
    at::AutoDispatchBelowADInplaceOrView below;
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("fedfmd::mixed_conv2d", "")
                               .typed<decltype(::forward)>();
    return op.call(x, weight, mix, bias, input_scale, output_scale, stride, padding, dilation, groups);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "the compiled dynamic convolution cannot be differentiated twice; use formulation='plain'");
    const auto saved = ctx->get_saved_variables();
    const auto window = ctx->saved_data["window"].toIntVector();
    const auto given = [&](size_t i) { return saved[i].defined() ? OptTensor(saved[i]) : std::nullopt; };
    const bool for_input = ctx->saved_data["for_input"].toBool(),
               for_weight = ctx->saved_data["for_weight"].toBool();
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("fedfmd::mixed_conv2d_backward", "")
                               .typed<decltype(::backward)>();
    const auto [x, weight, mix, bias, input_scale, output_scale] =
        op.call(grads[0], saved[0], saved[1], saved[2], given(3), given(4), given(5),
                IntArrayRef(&window[0], 2), IntArrayRef(&window[2], 2), IntArrayRef(&window[4], 2), window[6],
                {for_input, for_weight});
    const bool moved = for_weight && weight.numel() != saved[1].numel();
    // Whatever else remembers W as it was is told by autograd that it is no more.
    if (moved) torch::autograd::impl::bump_version(saved[1]);
    const auto known = [](const Tensor& t, bool wanted) { return wanted ? t : Tensor(); };
    return {known(x, for_input),
            known(weight, for_weight && !moved),
            known(mix, for_weight),
            known(bias, for_weight && saved[3].defined()),
            known(input_scale, for_input && saved[4].defined()),
            known(output_scale, for_weight && saved[5].defined()),
            Tensor(),
            Tensor(),
            Tensor(),
            Tensor()};
  }
};

Tensor differentiable(const Tensor& x, const Tensor& weight, const Tensor& mix, const OptTensor& bias,
                      const OptTensor& input_scale, const OptTensor& output_scale, IntArrayRef stride,
                      IntArrayRef padding, IntArrayRef dilation, int64_t groups) {
  return MixedConv2d::apply(x, weight, mix, bias, input_scale, output_scale, stride, padding, dilation,
                            groups);
}

// From now on `weights` take their steps of SGD in the backward passes of this thread; none of them if empty.
void step_in_backward(std::vector<Tensor> weights, std::vector<Tensor> velocities, double learning_rate,
                      double momentum, double weight_decay, bool nesterov) {
  TORCH_CHECK(velocities.size() == (momentum == 0 ? 0 : weights.size()), "every weight needs a velocity");
  for (size_t i = 0; i < velocities.size(); i++)
    TORCH_CHECK(velocities[i].sizes() == weights[i].sizes() && velocities[i].is_contiguous(),
                "a velocity must be like its weight, and contiguous");
  stepping() = {std::move(weights), std::move(velocities),
                {float(learning_rate), float(momentum), float(weight_decay), nesterov}};
}

}  // namespace

TORCH_LIBRARY(fedfmd, m) {
  m.def(
      "mixed_conv2d(Tensor x, Tensor weight, Tensor mix, Tensor? bias, Tensor? input_scale, Tensor? "
      "output_scale, "
      "int[2] stride, int[2] padding, int[2] dilation, int groups) -> Tensor");
  m.def(
      "mixed_conv2d_backward(Tensor grad, Tensor x, Tensor weight, Tensor mix, Tensor? bias, Tensor? "
      "input_scale, "
      "Tensor? output_scale, int[2] stride, int[2] padding, int[2] dilation, int groups, bool[2] needs) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "step_in_backward(Tensor[] weights, Tensor[] velocities, float learning_rate, float momentum, float "
      "weight_decay, bool nesterov) -> ()",
      step_in_backward);
}
TORCH_LIBRARY_IMPL(fedfmd, CPU, m) {
  m.impl("mixed_conv2d", forward);
  m.impl("mixed_conv2d_backward", backward);
}
TORCH_LIBRARY_IMPL(fedfmd, Autograd, m) { m.impl("mixed_conv2d", differentiable); }
