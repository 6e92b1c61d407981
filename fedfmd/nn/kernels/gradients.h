// The gradients of W, of the mix and of the output scale.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "convolve.h"
#include "geometry.h"
#include "layouts.h"
#include "registers.h"
#include "updates.h"
#include "vectors.h"

namespace fedfmd {

constexpr int64_t kPackedBlock = 128 * 1024;  // floats of packed samples: half of a second-level cache

struct WeightGradients {
  float* weight;  // as the weight; not written where W takes its step instead
  std::optional<Update> update;
  float* mix;     // (batch, mix taps, kernels)
  float*
      unscaled;  // (batch, output channels): sum over pixels of gradient times output before bias and scale
};

// What the weight gradients are computed from: the scaled input, and the gradient unscaled.
struct WeightPass {
  const Shape& s;
  Activations in, out;
  Tiles tiles;
  Mixture mixture;
  const float* output_scale;
};

// Samples from `first` on, packed: the parts of a group begin here, those of the next sample `next` floats on.
struct Packed {
  int64_t first;
  const float *x, *gradient;
  int64_t next_x, next_gradient;
};

// Where a block of W is: a block of a group's output lanes, `depth` input channels from c0 on; none if 0 or less.
struct Part {
  int64_t group, lane_block, c0, depth;
};

// One block of W, all taps, all samples.
//
// With g_b the gradient of sample b's own kernel before its output scale f_b (sums over pixels of gradient
// times input), the sums <g_b, W_k> of each lane give all the rest: times f_b they add up to the gradient of
// mix[b,k], times mix[b,k] to the output scale's.  So g_b is made for a few samples and rows, used and
// forgotten.
template <int V>
class GradientBlock {
 public:
  GradientBlock(const WeightPass& pass, const WeightGradients& into, int64_t depth)
      : p_(pass),
        into_(into),
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

  int64_t together() const { return together_; }

  void begin(const Part& part) {
    lane_block_ = part.lane_block, c0_ = part.c0;
    block_ = {s_.taps, s_.kernels, part.depth, kWidth};
    first_output_ = part.group * s_.out_channels + lane_block_ * kWidth;
    outputs_ = p_.out.lanes.in_block(lane_block_);
    pack_by_output(s_, p_.mixture.weight, first_output_, outputs_, c0_, block_, weights_.data());
    grad_weights_.zero();
    mix_.zero();
    const int64_t next = c0_ + part.depth;
    ahead_.emplace(s_, p_.mixture.weight, first_output_, outputs_, next,
                   std::min(part.depth, s_.in_channels - next), ceil_div(s_.batch, together_) * s_.taps);
    velocity_.reset();
    if (into_.update && into_.update->velocity)
      velocity_.emplace(s_, into_.update->velocity, first_output_, outputs_, c0_, part.depth, s_.taps);
  }

  // Adds the packed samples before `stop`, a few at a time.
  void add(const Packed& packed, int64_t stop, float* unscaled) {
    for (int64_t b = packed.first; b < stop; b += together_)
      add_samples(packed, b, std::min(together_, stop - b), unscaled);
  }

  void end(float* mix) const {
    for (int64_t i = 0; i < s_.batch * mix_size(); i++) mix[i] = add_lanes(Vec::loadu(&mix_[i * kLanes]));
    if (into_.update)
      step_by_output(s_, grad_weights_.data(), first_output_, outputs_, c0_, block_, *into_.update);
    else
      unpack_by_output(s_, grad_weights_.data(), first_output_, outputs_, c0_, block_, into_.weight);
  }

 private:
  static constexpr int64_t kWidth = V * kLanes;
  static constexpr int64_t kMost = kRegisters / 8;  // samples at once

  int64_t mix_size() const { return s_.mix_taps * s_.kernels; }
  const float* mix_of(int64_t b, int64_t tap) const {
    return p_.mixture.mix + b * mix_size() + s_.mix_offset(tap);
  }

  void add_samples(const Packed& packed, int64_t b, int64_t samples, float* unscaled) {
    const int64_t all_outputs = s_.groups * s_.out_channels;
    for (int64_t i = 0; i < samples; i++) {
      const int64_t output = (b + i) * all_outputs + first_output_;
      load_lanes(p_.output_scale ? p_.output_scale + output : nullptr, outputs_, kWidth, 1.f,
                 &scale_[i * kWidth]);
    }
    unscaled_.zero();
    for (int64_t tap = 0; tap < s_.taps; tap++) {
      ahead_->fetch();
      if (velocity_ && b + samples == s_.batch) velocity_->fetch();  // which is read once the last are added
      add_tap(packed, b, samples, tap);
    }
    for (int64_t i = 0; i < samples; i++)
      std::copy_n(&unscaled_[i * kWidth], outputs_, unscaled + (b + i) * all_outputs + first_output_);
  }

  void add_tap(const Packed& packed, int64_t b, int64_t samples, int64_t tap) {
    dot_.zero();
    if (tap == 0 || s_.mix_taps > 1) scale_mix(b, samples, tap);
    for (int64_t row = 0; row < block_.depth; row += rows_step_) {
      const int64_t rows = std::min(rows_step_, block_.depth - row);
      for (int64_t i = 0; i < samples; i++)
        make_gradient(packed, b + i, tap, row, rows, &gradient_[i * rows_step_ * kWidth]);
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
  void make_gradient(const Packed& packed, int64_t b, int64_t tap, int64_t row, int64_t rows,
                     float* into) const {
    const int64_t sample = b - packed.first, c = c0_ + row, width = p_.in.lanes.width;
    const float* x =
        packed.x + sample * packed.next_x + c / width * p_.in.block_size() + c % width;
    const float* gradient =
        packed.gradient + sample * packed.next_gradient + lane_block_ * p_.out.block_size();
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
                              block_.next_depth()};
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
  const WeightGradients& into_;
  const Shape& s_;
  int64_t together_, rows_step_, first_output_ = 0, outputs_ = 0, lane_block_ = 0, c0_ = 0;
  WeightBlock block_{};
  std::optional<Ahead> ahead_, velocity_;
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

// Every task has a block of W.  Where all of them read the same activations, and a thread's blocks stay in its
// cache, the thread packs some samples, has each of its blocks read them, and goes on to the next; elsewhere
// all samples are packed first.
inline void weight_gradients(const WeightPass& pass, const WeightGradients& into) {
  const Shape& s = pass.s;
  const Lanes &in = pass.in.lanes, &out = pass.out.lanes;
  const int64_t depth = gradient_depth(s, out, in), steps = ceil_div(in.width, depth);
  const int64_t depths = in.blocks * steps, parts = s.groups * out.blocks * depths;
  const int64_t mix_size = s.batch * s.mix_taps * s.kernels,
                unscaled_size = s.batch * s.groups * s.out_channels;
  const int64_t size_x = pass.in.group_size(), size_gradient = pass.out.group_size();
  const bool shared = s.groups * out.blocks * in.blocks == 1 &&
                      2 * s.taps * s.kernels * in.width * out.width <= kWeightBlock;
  const Buffer all_x = shared ? Buffer(0) : pass.in.packed();
  const Buffer all_gradients = shared ? Buffer(0) : pass.out.packed();
  Buffer mixes(parts * mix_size), unscaled(depths * unscaled_size);
  mixes.zero();
  unscaled.zero();
  const auto part_at = [&](int64_t i) {
    const int64_t lane_blocks = i / depths, start = i % steps * depth, c0 = i % depths / steps * in.width + start;
    return Part{lane_blocks / out.blocks, lane_blocks % out.blocks, c0,
                std::min({depth, in.width - start, s.in_channels - c0})};
  };
  with_vectors(out.vectors, [&](auto vectors) {
    using Block = GradientBlock<vectors>;
    const auto one_by_one = [&](int64_t begin, int64_t end) {
      Block block(pass, into, depth);
      for (int64_t i = begin; i < end; i++) {
        const Part part = part_at(i);
        if (part.depth <= 0) continue;  // the last block of lanes is not full
        block.begin(part);
        block.add({0, &all_x[part.group * size_x], &all_gradients[part.group * size_gradient],
                   s.groups * size_x, s.groups * size_gradient},
                  s.batch, &unscaled[i % depths * unscaled_size]);
        block.end(&mixes[i * mix_size]);
      }
    };
    const auto together = [&](int64_t begin, int64_t end) {
      std::vector<Block> own;
      for (int64_t i = begin; i < end; i++) own.emplace_back(pass, into, depth).begin(part_at(i));
      const int64_t few = own[0].together(), pieces = kPackedBlock / (size_x + size_gradient) / few;
      const int64_t piece = std::max<int64_t>(1, pieces) * few;
      Buffer x(piece * size_x), gradients(piece * size_gradient);
      for (int64_t first = 0; first < s.batch; first += piece) {
        const int64_t stop = std::min(s.batch, first + piece);
        pass.in.pack(0, first, stop, x.data());
        pass.out.pack(0, first, stop, gradients.data());
        const Packed packed{first, x.data(), gradients.data(), size_x, size_gradient};
        for (int64_t i = begin; i < end; i++) own[i - begin].add(packed, stop, &unscaled[i * unscaled_size]);
      }
      for (int64_t i = begin; i < end; i++) own[i - begin].end(&mixes[i * mix_size]);
    };
    if (shared)
      at::parallel_for(0, ceil_div(s.in_channels, depth), 1, together);
    else
      at::parallel_for(0, parts, 1, one_by_one);
  });
  sum_parts(mixes, parts, mix_size, into.mix);
  sum_parts(unscaled, depths, unscaled_size, into.unscaled);
}

}  // namespace fedfmd
