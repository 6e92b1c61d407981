// Steps of SGD that W takes where a block of its gradient is finished: the gradient is never in memory.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/variable.h>

#include <optional>
#include <vector>

#include "layouts.h"
#include "tensors.h"
#include "vectors.h"

namespace fedfmd {

struct Rates {
  float learning_rate, momentum, weight_decay;
  bool nesterov;
};

// W and its velocity, of the same layout, null without momentum.
struct Update {
  float *weight, *velocity;
  Rates rates;

  // `count` elements from `first` on take their step; every rounding is that of PyTorch's fused SGD on x86.
  void step(int64_t first, const float* gradient, int64_t count) const {
    float *w = weight + first, *v = velocity ? velocity + first : nullptr;
    const Vec rate(-rates.learning_rate), momentum(rates.momentum), decay(rates.weight_decay);
    const bool decays = rates.weight_decay != 0.f, nesterov = rates.nesterov;
    const auto move = [&](int64_t i, auto... lanes) {
      Vec g = Vec::loadu(gradient + i, lanes...);
      const Vec before = Vec::loadu(w + i, lanes...);
      if (decays) g = at::vec::fmadd(before, decay, g);
      if (v) {
        // Two roundings: written as a sum, the compiler would make it one.
        const Vec now = at::vec::fmadd(g, Vec(1.f), Vec::loadu(v + i, lanes...) * momentum);
        now.store(v + i, lanes...);
        g = nesterov ? at::vec::fmadd(now, momentum, g) : now;
      }
      at::vec::fmadd(g, rate, before).store(w + i, lanes...);
    };
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) move(i);
    if (i < count) move(i, count - i);
  }
};

// As unpack_by_output, but W takes a step along what is unpacked, a few of its rows at a time.
inline void step_by_output(const Shape& s, const float* packed, int64_t o0, int64_t outputs, int64_t c0,
                           const WeightBlock& block, const Update& update) {
  // Rows of the first length alone would all fall on the same few sets of a cache.
  constexpr int64_t kColumns = 16 * kLanes, kNext = kColumns + kLanes;
  alignas(64) float rows[kLanes * kNext];
  const int64_t row = s.in_channels * s.taps, columns = block.depth * s.taps, next = s.kernels * block.width;
  for (int64_t k = 0; k < s.kernels; k++)
    for (int64_t o = 0; o < outputs; o += kLanes)
      for (int64_t c = 0; c < columns; c += kColumns) {
        const int64_t height = std::min<int64_t>(kLanes, outputs - o);
        const int64_t length = std::min(kColumns, columns - c);
        const int64_t first = (k * s.groups * s.out_channels + o0 + o) * row + c0 * s.taps + c;
        transpose(packed + c * next + k * block.width + o, next, rows, kNext, length, height);
        for (int64_t i = 0; i < height; i++) update.step(first + i * row, rows + i * kNext, length);
      }
}

// The weights that take a step in the backward passes of a thread, their velocities, and how.
struct Stepping {
  std::vector<at::Tensor> weights, velocities;
  Rates rates;
};

inline Stepping& stepping() {
  static thread_local Stepping of_thread;
  return of_thread;
}

// Whether the gradient that a node of the backward pass makes of W is all of it, and nobody looks at it: W's
// accumulator is referred to by that node alone, and here; the pass is a whole one, which is made once.
inline bool sole_gradient(const at::Tensor& weight) {
  const auto accumulator = torch::autograd::impl::try_get_grad_accumulator(weight);
  const auto* chosen = torch::autograd::get_current_graph_task_exec_info();
  return accumulator && accumulator.use_count() == 2 && !weight.grad().defined() &&
         accumulator->tensor_pre_hooks().empty() && accumulator->pre_hooks().empty() &&
         accumulator->post_hooks().empty() && !accumulator->tensor_post_acc_grad_hooks() && chosen &&
         chosen->empty() && !torch::autograd::get_current_graph_task_keep_graph();
}

// W's step, if it takes one in this backward pass.
inline std::optional<Update> update_of(const at::Tensor& weight) {
  const Stepping& now = stepping();
  // PyTorch rounds the elements beyond the last eight in another way.
  if (!weight.is_contiguous() || weight.numel() % 8) return {};
  for (size_t i = 0; i < now.weights.size(); i++)
    if (now.weights[i].is_same(weight) && sole_gradient(weight)) {
      at::Tensor to = weight, velocity = now.velocities.empty() ? at::Tensor() : now.velocities[i];
      return Update{changed(to), velocity.defined() ? changed(velocity) : nullptr, now.rates};
    }
  return {};
}

}  // namespace fedfmd
