// The gradients of W, of the mix and of the output scale.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>

#include "convolve.h"
#include "geometry.h"
#include "layouts.h"
#include "registers.h"
#include "vectors.h"

namespace fedfmd {

struct WeightGradients {
  float* weight;  // as the weight
  float* mix;     // (batch, mix taps, kernels)
  float*
      unscaled;  // (batch, output channels): sum over pixels of gradient times output before bias and scale
};

// What the weight gradients are computed from; activations as pack_pixels gives them, the gradient unscaled.
struct WeightPass {
  const Shape& s;
  Lanes in, out;
  Tiles tiles;
  Mixture mixture;
  const float *x, *gradient, *output_scale;
};

// One block of W: output lanes of a group, `depth` input channels from c0 on, all taps, all samples.
//
// With g_b the gradient of sample b's own kernel before its output scale f_b (sums over pixels of gradient
// times input), the sums <g_b, W_k> of each lane give all the rest: times f_b they add up to the gradient of
// mix[b,k], times mix[b,k] to the output scale's.  So g_b is made for a few samples and rows, used and
// forgotten.
template <int V>
class GradientBlock {
 public:
  GradientBlock(const WeightPass& pass, int64_t depth)
      : p_(pass),
        s_(pass.s),
        together_(std::clamp<int64_t>(64 * 1024 / (s_.out_pixels() * kWidth), 1, kMost)),
        rows_step_(std::min<int64_t>(depth, std::max<int64_t>(8, 4096 / (together_ * kWidth)))),
        weights_(s_.taps * s_.kernels * depth * kWidth),
        grad_weights_(s_.taps * s_.kernels * depth * kWidth),
        gradient_(kMost * rows_step_ * kWidth),
        scale_(kMost * kWidth),
        scaled_mix_(s_.kernels * kMost * kWidth),
        dot_(s_.kernels * kMost * kWidth),
        unscaled_(kMost * kWidth),
        mix_(s_.batch * s_.mix_taps * s_.kernels * kLanes) {}

  void run(int64_t group, int64_t lane_block, int64_t c0, int64_t depth, const WeightGradients& into) {
    group_ = group, lane_block_ = lane_block, c0_ = c0;
    block_ = {s_.taps, s_.kernels, depth, kWidth};
    const int64_t o0 = group * s_.out_channels + lane_block * kWidth, outputs = p_.out.in_block(lane_block);
    pack_by_output(s_, p_.mixture.weight, o0, outputs, c0, block_, weights_.data());
    grad_weights_.zero();
    mix_.zero();
    Ahead ahead{s_,
                p_.mixture.weight,
                o0,
                outputs,
                c0 + depth,
                std::min(depth, s_.in_channels - c0 - depth),
                ceil_div(s_.batch, together_) * s_.taps};
    for (int64_t b = 0; b < s_.batch; b += together_) {
      const int64_t samples = std::min(together_, s_.batch - b);
      for (int64_t i = 0; i < samples; i++) {
        const int64_t output = (b + i) * s_.groups * s_.out_channels + o0;
        load_lanes(p_.output_scale ? p_.output_scale + output : nullptr, outputs, kWidth, 1.f,
                   &scale_[i * kWidth]);
      }
      unscaled_.zero();
      for (int64_t tap = 0; tap < s_.taps; tap++) {
        ahead.fetch();
        add_tap(b, samples, tap);
      }
      for (int64_t i = 0; i < samples; i++)
        std::copy_n(&unscaled_[i * kWidth], outputs,
                    into.unscaled + (b + i) * s_.groups * s_.out_channels + o0);
    }
    for (int64_t i = 0; i < s_.batch * mix_size(); i++)
      into.mix[i] = add_lanes(Vec::loadu(&mix_[i * kLanes]));
    unpack_by_output(s_, grad_weights_.data(), o0, outputs, c0, block_, into.weight);
  }

 private:
  static constexpr int64_t kWidth = V * kLanes;
  static constexpr int64_t kMost = kRegisters / 8;  // samples at once

  int64_t mix_size() const { return s_.mix_taps * s_.kernels; }
  const float* mix_of(int64_t b, int64_t tap) const {
    return p_.mixture.mix + b * mix_size() + s_.mix_offset(tap);
  }

  void add_tap(int64_t b, int64_t samples, int64_t tap) {
    dot_.zero();
    if (tap == 0 || s_.mix_taps > 1) scale_mix(b, samples, tap);
    for (int64_t row = 0; row < block_.depth; row += rows_step_) {
      const int64_t rows = std::min(rows_step_, block_.depth - row);
      for (int64_t i = 0; i < samples; i++)
        make_gradient(b + i, tap, row, rows, &gradient_[i * rows_step_ * kWidth]);
      reduce(samples, tap, row, rows);
    }
    account(b, samples, tap);
  }

  // scaled_mix[k][vector][sample] = mix * output scale
  void scale_mix(int64_t b, int64_t samples, int64_t tap) {
    for (int64_t k = 0; k < s_.kernels; k++)
      for (int64_t j = 0; j < V; j++)
        for (int64_t i = 0; i < samples; i++)
          (Vec(mix_of(b + i, tap)[k]) * Vec::loadu(&scale_[i * kWidth + j * kLanes]))
              .store(&scaled_mix_[((k * V + j) * kMost + i) * kLanes]);
  }

  // g_b, some rows of one tap
  void make_gradient(int64_t b, int64_t tap, int64_t row, int64_t rows, float* into) const {
    const int64_t sample = b * s_.groups + group_, c = c0_ + row, width = p_.in.width;
    const float* x = p_.x + (sample * p_.in.blocks + c / width) * s_.in_pixels() * width + c % width;
    const float* gradient = p_.gradient + (sample * p_.out.blocks + lane_block_) * s_.out_pixels() * kWidth;
    const int64_t parts = ceil_div(rows, max_rows(V));
    for (int64_t pixels = 0; pixels < p_.tiles.blocks; pixels++)
      for (int64_t part = 0; part < parts; part++) {
        const int64_t r = rows * part / parts, count = rows * (part + 1) / parts - r;
        kGradient<V>[count - 1]({&p_.tiles.at(pixels, tap), x + r, gradient, into + r * kWidth, width,
                                 p_.tiles.from_step * width, pixels == 0});
      }
  }

  // dot += <g, W>, gradient of W += mix * scale * g
  void reduce(int64_t samples, int64_t tap, int64_t row, int64_t rows) {
    for (int64_t k = 0; k < s_.kernels; k += 2)
      for (int64_t j = 0; j < V; j++) {
        const int64_t at = block_.offset(tap, row, k) + j * kLanes;
        const ReduceArgs args{&gradient_[j * kLanes],
                              &weights_[at],
                              &scaled_mix_[(k * V + j) * kMost * kLanes],
                              &grad_weights_[at],
                              &dot_[k * kMost * kWidth + j * kLanes],
                              rows_step_ * kWidth,
                              V * kMost * kLanes,
                              kWidth,
                              kMost * kWidth,
                              rows,
                              kWidth,
                              block_.next_row()};
        reduce_samples<kMost>(args, samples, k + 1 < s_.kernels);
      }
  }

  // Passes a tap's dot products on to the gradients of the mix and of the output scale.
  void account(int64_t b, int64_t samples, int64_t tap) {
    for (int64_t i = 0; i < samples; i++)
      for (int64_t k = 0; k < s_.kernels; k++) {
        float* total = &mix_[((b + i) * mix_size() + s_.mix_offset(tap) + k) * kLanes];
        const Vec m(mix_of(b + i, tap)[k]);
        Vec sum = Vec::loadu(total);
        for (int64_t j = 0; j < kWidth; j += kLanes) {
          const Vec dot = Vec::loadu(&dot_[(k * kMost + i) * kWidth + j]);
          float* unscaled = &unscaled_[i * kWidth + j];
          sum = at::vec::fmadd(dot, Vec::loadu(&scale_[i * kWidth + j]), sum);
          at::vec::fmadd(dot, m, Vec::loadu(unscaled)).store(unscaled);
        }
        sum.store(total);
      }
  }

  const WeightPass& p_;
  const Shape& s_;
  int64_t together_, rows_step_, group_ = 0, lane_block_ = 0, c0_ = 0;
  WeightBlock block_{};
  Buffer weights_, grad_weights_, gradient_, scale_, scaled_mix_, dot_, unscaled_, mix_;
};

// Depth of a task: fit for the cache, and eight tasks if possible; by shape alone, as it fixes the order of
// sums.
inline int64_t gradient_depth(const Shape& s, const Lanes& out, const Lanes& in) {
  const int64_t blocks = s.groups * out.blocks * in.blocks;
  const int64_t most = std::min<int64_t>(32, std::max<int64_t>(8, in.width * blocks / 8));
  return std::min(in.width, depth_step(s, out.width, most));
}

// total[i] = sum over parts, in order.
inline void sum_parts(const Buffer& parts, int64_t count, int64_t size, float* total) {
  std::fill_n(total, size, 0.f);
  for (int64_t part = 0; part < count; part++)
    for (int64_t i = 0; i < size; i++) total[i] += parts[part * size + i];
}

inline void weight_gradients(const WeightPass& pass, const WeightGradients& into) {
  const Shape& s = pass.s;
  const int64_t depth = gradient_depth(s, pass.out, pass.in), steps = ceil_div(pass.in.width, depth);
  const int64_t depths = pass.in.blocks * steps, blocks = s.groups * pass.out.blocks;
  const int64_t mix_size = s.batch * s.mix_taps * s.kernels,
                unscaled_size = s.batch * s.groups * s.out_channels;
  Buffer mixes(blocks * depths * mix_size), unscaled(depths * unscaled_size);
  mixes.zero();
  unscaled.zero();
  with_vectors(pass.out.vectors, [&](auto vectors) {
    at::parallel_for(0, blocks * depths, 1, [&](int64_t begin, int64_t end) {
      GradientBlock<vectors> block(pass, depth);
      for (int64_t i = begin; i < end; i++) {
        const int64_t part = i % depths, start = part % steps * depth,
                      c0 = part / steps * pass.in.width + start;
        const int64_t here = std::min({depth, pass.in.width - start, s.in_channels - c0});
        if (here <= 0) continue;  // the last block of lanes is not full
        block.run(i / depths / pass.out.blocks, i / depths % pass.out.blocks, c0, here,
                  {into.weight, &mixes[i * mix_size], &unscaled[part * unscaled_size]});
      }
    });
  });
  sum_parts(mixes, blocks * depths, mix_size, into.mix);
  sum_parts(unscaled, depths, unscaled_size, into.unscaled);
}

}  // namespace fedfmd
