// The small layers that compute attentions from the averages of the channels, forwards and backwards as one operation
// each: in PyTorch's own they are dozens, and most of their time is the way there.
//
//   hidden = ReLU(norm(x W^T + b)),   head_i = f_i((hidden W_i^T + b_i) / T_i),
//
// where the norm is LayerNorm or nothing, and f is the softmax, the sigmoid or nothing. Without W, x is what ReLU gets.
// And the averages themselves: their gradient is spread over the pixels and added to that of the input in one pass.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/alias.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <cmath>
#include <vector>

#include "products.h"
#include "tensors.h"
#include "vectors.h"

namespace {

using at::Tensor;
using at::TensorList;
using Floats = at::ArrayRef<double>;
using Ints = at::IntArrayRef;
using namespace fedfmd;

enum Function : int64_t { kNothing = 0, kSoftmax = 1, kSigmoid = 2 };

// Calls `f(from, count)` for the vectors of `size` floats; the last may have fewer than kLanes.
template <class F>
void by_vectors(int64_t size, F f) {
  for (int64_t i = 0; i < size; i += kLanes) f(i, std::min<int64_t>(kLanes, size - i));
}

// (x - mean) / deviation of each row in its place; returns 1 / deviation of each row.
Tensor normalise(Tensor& x, double epsilon) {
  const int64_t rows = x.size(0), size = x.size(1);
  Tensor scale = at::empty({rows}, x.options());
  float *row = changed(x), *to = changed(scale);
  for (int64_t b = 0; b < rows; b++, row += size) {
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < size; i++) sum += row[i];
    const double mean = sum / size;
    for (int64_t i = 0; i < size; i++) squares += (row[i] - mean) * (row[i] - mean);
    to[b] = float(1 / std::sqrt(squares / size + epsilon));
    for (int64_t i = 0; i < size; i++) row[i] = float(row[i] - mean) * to[b];
  }
  return scale;
}

void softmax(float* row, int64_t size, float temperature) {
  float largest = row[0], sum = 0;
  for (int64_t i = 1; i < size; i++) largest = std::max(largest, row[i]);
  for (int64_t i = 0; i < size; i++) sum += row[i] = std::exp((row[i] - largest) / temperature);
  for (int64_t i = 0; i < size; i++) row[i] /= sum;
}

void sigmoid(float* all, int64_t size, float temperature) {
  const Vec one(1.f), cold(-temperature);
  by_vectors(size, [&](int64_t i, int64_t count) {
    const Vec power = (Vec::loadu(all + i, count) / cold).exp();
    (one / (one + power)).store(all + i, count);
  });
}

void apply(int64_t function, Tensor& head, float temperature) {
  float* to = changed(head);
  const int64_t size = head.size(1);
  if (function == kSigmoid) return sigmoid(to, head.numel(), temperature);
  for (int64_t b = 0; b < head.size(0); b++, to += size) {
    if (function == kSoftmax)
      softmax(to, size, temperature);
    else
      for (int64_t i = 0; i < size; i++) to[i] /= temperature;
  }
}

// The gradient of what a head's function got, from that of what it gave.
Tensor through(int64_t function, const Tensor& grad_, const Tensor& head, float temperature) {
  const Tensor grad = grad_.contiguous();
  Tensor result = at::empty(head.sizes(), head.options());
  const float *g = values(grad), *a = values(head);
  float* to = changed(result);
  const int64_t size = head.size(1);
  for (int64_t b = 0; b < head.size(0); b++, g += size, a += size, to += size) {
    float mean = 0;
    if (function == kSoftmax)
      for (int64_t i = 0; i < size; i++) mean += g[i] * a[i];
    for (int64_t i = 0; i < size; i++) {
      const float slope =
          function == kSoftmax ? a[i] * (g[i] - mean) : function == kSigmoid ? g[i] * a[i] * (1 - a[i]) : g[i];
      to[i] = slope / temperature;
    }
  }
  return result;
}

// The heads, and then what the gradients need: hidden, and with a norm its input normalised and 1 / deviation.
std::vector<Tensor> attend(const Tensor& x_, const OptTensor& weight_, const OptTensor& bias,
                           const OptTensor& gamma, const OptTensor& beta, double epsilon, TensorList weights_,
                           TensorList biases, Floats temperatures, Ints functions) {
  const Tensor x = x_.contiguous();
  const OptTensor weight = contiguous(weight_);
  const std::vector<Tensor> weights = contiguous(weights_);
  const int64_t batch = x.size(0), size = weight ? weight->size(0) : x.size(1);
  Tensor hidden = at::empty({batch, size}, x.options()), normed = at::empty({0}, x.options()), scale = normed;
  if (weight)
    product({values(x), x.size(1), 1}, Transposed(values(*weight), size, x.size(1)).rows(), batch, x.size(1), size,
            changed(hidden), values(bias));
  else
    hidden.copy_(x);
  if (gamma) {
    scale = normalise(hidden, epsilon);
    normed = hidden.clone();
  }
  float* to = changed(hidden);
  const float *by = values(gamma), *shift = values(beta);
  for (int64_t b = 0; b < batch; b++, to += size)
    for (int64_t i = 0; i < size; i++) {
      const float affine = by ? to[i] * by[i] + shift[i] : to[i];
      to[i] = affine > 0 || affine != affine ? affine : 0.f;
    }
  std::vector<Tensor> results;
  for (size_t i = 0; i < weights.size(); i++) {
    const int64_t outputs = weights[i].size(0);
    Tensor head = at::empty({batch, outputs}, x.options());
    product({values(hidden), size, 1}, Transposed(values(weights[i]), outputs, size).rows(), batch, size, outputs,
            changed(head), values(biases[i]));
    apply(functions[i], head, float(temperatures[i]));
    results.push_back(head);
  }
  results.insert(results.end(), {hidden, normed, scale});
  return results;
}

Tensor sum_rows(const Tensor& t) {
  const int64_t rows = t.size(0), size = t.size(1);
  Tensor result = at::zeros({size}, t.options());
  const float* from = values(t);
  float* to = changed(result);
  for (int64_t b = 0; b < rows; b++, from += size)
    for (int64_t i = 0; i < size; i++) to[i] += from[i];
  return result;
}

// The gradients of a linear layer with the input x, from that of its output: the weight's, and the input's if wanted.
Tensor weight_gradient(const Tensor& grad, const Tensor& x) {
  const int64_t batch = x.size(0), inputs = x.size(1), outputs = grad.size(1);
  Tensor result = at::empty({outputs, inputs}, x.options());
  product({values(grad), 1, outputs}, {values(x), inputs}, outputs, batch, inputs, changed(result));
  return result;
}

Tensor input_gradient(const Tensor& grad, const Tensor& weight) {
  const int64_t batch = grad.size(0), outputs = weight.size(0), inputs = weight.size(1);
  Tensor result = at::empty({batch, inputs}, grad.options());
  product({values(grad), outputs, 1}, {values(weight), inputs}, batch, outputs, inputs, changed(result));
  return result;
}

// Takes the gradient of LayerNorm's result to that of its input, in its place; gives those of gamma and beta.
std::pair<Tensor, Tensor> through_norm(Tensor& grad, const Tensor& normed, const Tensor& scale, const Tensor& gamma) {
  const int64_t batch = grad.size(0), size = grad.size(1);
  Tensor for_gamma = at::zeros({size}, grad.options()), for_beta = sum_rows(grad);
  float *row = changed(grad), *sums = changed(for_gamma);
  const float *x = values(normed), *by = values(gamma), *s = values(scale);
  for (int64_t b = 0; b < batch; b++, row += size, x += size) {
    double mean = 0, slope = 0;
    for (int64_t i = 0; i < size; i++) {
      sums[i] += row[i] * x[i];
      row[i] *= by[i];
      mean += row[i];
      slope += double(row[i]) * x[i];
    }
    const float m = float(mean / size), t = float(slope / size);
    for (int64_t i = 0; i < size; i++) row[i] = s[b] * (row[i] - m - x[i] * t);
  }
  return {for_gamma, for_beta};
}

// Gradients of x, weight, bias, gamma, beta, then of the heads' weights and of their biases; undefined where there are
// none.
std::vector<Tensor> attend_backward(TensorList grads, const Tensor& x_, const OptTensor& weight_, bool biased,
                                    const OptTensor& gamma, TensorList weights_, TensorList heads,
                                    const Tensor& hidden, const Tensor& normed, const Tensor& scale,
                                    Floats temperatures, Ints functions) {
  const Tensor x = x_.contiguous();
  const OptTensor weight = contiguous(weight_);
  const std::vector<Tensor> weights = contiguous(weights_);
  std::vector<Tensor> for_weights, for_biases;
  Tensor grad;
  for (size_t i = 0; i < heads.size(); i++) {
    const Tensor logits = through(functions[i], grads[i], heads[i], float(temperatures[i]));
    for_weights.push_back(weight_gradient(logits, hidden));
    for_biases.push_back(sum_rows(logits));
    const Tensor part = input_gradient(logits, weights[i]);
    grad = grad.defined() ? grad.add_(part) : part;
  }
  float* to = changed(grad);
  const float* active = values(hidden);
  for (int64_t i = 0; i < grad.numel(); i++) to[i] = active[i] > 0 ? to[i] : 0.f;
  std::vector<Tensor> results(5);
  if (gamma) std::tie(results[3], results[4]) = through_norm(grad, normed, scale, *gamma);
  if (weight) {
    results[1] = weight_gradient(grad, x);
    if (biased) results[2] = sum_rows(grad);
    grad = input_gradient(grad, *weight);
  }
  results[0] = grad;
  results.insert(results.end(), for_weights.begin(), for_weights.end());
  results.insert(results.end(), for_biases.begin(), for_biases.end());
  return results;
}

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Attend : torch::autograd::Function<Attend> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const OptTensor& weight, const OptTensor& bias,
                               const OptTensor& gamma, const OptTensor& beta, double epsilon,
                               const TensorList& weights, const TensorList& biases, Floats temperatures,
                               Ints functions) {
    at::AutoDispatchBelowADInplaceOrView below;
    variable_list made =
        attend(x, weight, bias, gamma, beta, epsilon, weights, biases, temperatures, functions);
    variable_list saved{x, weight.value_or(Tensor()), gamma.value_or(Tensor())};
    saved.insert(saved.end(), weights.begin(), weights.end());
    saved.insert(saved.end(), made.begin(), made.end());
    ctx->save_for_backward(saved);
    ctx->saved_data["biased"] = bias.has_value();
    ctx->saved_data["temperatures"] = temperatures.vec();
    ctx->saved_data["functions"] = functions.vec();
    made.resize(weights.size());
    return made;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "the compiled attention cannot be differentiated twice; use forced_formulation('plain')");
    const auto saved = ctx->get_saved_variables();
    const size_t count = grads.size();
    const auto given = [&](size_t i) { return saved[i].defined() ? OptTensor(saved[i]) : std::nullopt; };
    const TensorList all(saved), weights = all.slice(3, count), heads = all.slice(3 + count, count);
    for (size_t i = 0; i < count; i++)
      if (!grads[i].defined()) grads[i] = at::zeros_like(heads[i]);
    const auto temperatures = ctx->saved_data["temperatures"].toDoubleVector();
    const auto functions = ctx->saved_data["functions"].toIntVector();
    variable_list results = attend_backward(
        grads, saved[0], given(1), ctx->saved_data["biased"].toBool(), given(2), weights, heads,
        saved[3 + 2 * count], saved[4 + 2 * count], saved[5 + 2 * count], temperatures, functions);
    results.insert(results.begin() + 5, Tensor());  // of epsilon
    results.insert(results.end(), 2, Tensor());
    return results;
  }
};

variable_list differentiable(const Tensor& x, const OptTensor& weight, const OptTensor& bias, const OptTensor& gamma,
                             const OptTensor& beta, double epsilon, TensorList weights, TensorList biases,
                             Floats temperatures, Ints functions) {
  return Attend::apply(x, weight, bias, gamma, beta, epsilon, weights, biases, temperatures, functions);
}

variable_list only_heads(const Tensor& x, const OptTensor& weight, const OptTensor& bias, const OptTensor& gamma,
                         const OptTensor& beta, double epsilon, TensorList weights, TensorList biases,
                         Floats temperatures, Ints functions) {
  variable_list made = attend(x, weight, bias, gamma, beta, epsilon, weights, biases, temperatures, functions);
  made.resize(weights.size());
  return made;
}

constexpr int64_t kPlanes = 64;  // of a thread, at least

// The mean of each plane of x (B, C, H, W): (B, C).
Tensor averages(const Tensor& x_) {
  const Tensor x = x_.contiguous();
  const int64_t pixels = x.size(2) * x.size(3);
  Tensor result = at::empty({x.size(0), x.size(1)}, x.options());
  const float* from = values(x);
  float* to = changed(result);
  at::parallel_for(0, result.numel(), kPlanes, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; plane++) {
      const float* p = from + plane * pixels;
      Vec a(0.f), b(0.f);
      int64_t i = 0;
      for (; i + 2 * kLanes <= pixels; i += 2 * kLanes) {
        a = a + Vec::loadu(p + i);
        b = b + Vec::loadu(p + i + kLanes);
      }
      float sum = add_lanes(a + b);
      for (; i < pixels; i++) sum += p[i];
      to[plane] = sum / float(pixels);
    }
  });
  return result;
}

// Whether nobody else can see what is in t.
bool unshared(const Tensor& t) {
  return t.use_count() == 1 && t.storage().use_count() == 1 && !t.requires_grad();
}

// grad (B, C, H, W) and the averages' own (B, C), spread over the pixels; in the place of grad, if that is ours.
Tensor add_spread(const Tensor& grad_, const Tensor& of_averages_) {
  const bool ours = grad_.is_contiguous() && unshared(grad_);
  const Tensor grad = grad_.contiguous(), of_averages = of_averages_.contiguous();
  const int64_t pixels = grad.size(2) * grad.size(3);
  Tensor result = ours ? grad : at::empty(grad.sizes(), grad.options());
  const float *from = values(grad), *means = values(of_averages);
  float* to = changed(result);
  at::parallel_for(0, of_averages.numel(), kPlanes, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; plane++) {
      const float share = means[plane] / float(pixels);
      for (int64_t i = plane * pixels; i < (plane + 1) * pixels; i++) to[i] = from[i] + share;
    }
  });
  return result;
}

struct WithAverages : torch::autograd::Function<WithAverages> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x) {
    ctx->saved_data["sizes"] = x.sizes().vec();
    at::AutoDispatchBelowADInplaceOrView below;
    return {x, averages(x)};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "the compiled averages cannot be differentiated twice; use forced_formulation('plain')");
    if (!grads[1].defined()) return {grads[0]};
    if (grads[0].defined()) return {add_spread(grads[0], grads[1])};
    const Tensor none = at::zeros(ctx->saved_data["sizes"].toIntVector(), grads[1].options());
    return {add_spread(none, grads[1])};
  }
};

std::tuple<Tensor, Tensor> with_averages(const Tensor& x) {
  const auto results = WithAverages::apply(x);
  return {results[0], results[1]};
}

std::tuple<Tensor, Tensor> beside_averages(const Tensor& x) { return {at::alias(x), averages(x)}; }

}  // namespace

TORCH_LIBRARY_FRAGMENT(fedfmd, m) {
  m.def(
      "attend(Tensor x, Tensor? weight, Tensor? bias, Tensor? gamma, Tensor? beta, float epsilon, "
      "Tensor[] weights, Tensor[] biases, float[] temperatures, int[] functions) -> Tensor[]");
  m.def("with_averages(Tensor(a) x) -> (Tensor(a), Tensor)");
}
TORCH_LIBRARY_IMPL(fedfmd, CPU, m) {
  m.impl("attend", only_heads);
  m.impl("with_averages", beside_averages);
}
TORCH_LIBRARY_IMPL(fedfmd, Autograd, m) {
  m.impl("attend", differentiable);
  m.impl("with_averages", with_averages);
}
