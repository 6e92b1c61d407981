// ReLU and 2x2 max-pooling as one operation: a window's largest element, or zero where none is positive.
//
// Nothing is rounded, the first of equal elements takes the gradient as in PyTorch, and windows do not overlap: the
// results have the bits of max_pool2d(relu(x), 2). NaN wins, as there.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <array>

#include "vectors.h"

namespace {

using at::Tensor;
using fedfmd::kLanes;
using fedfmd::Vec;

constexpr int64_t GRAIN = 64;  // planes

float larger(float a, float b) { return a > b || a != a ? a : b; }

// The four places of `kLanes` windows in a row, as vectors: upper left, upper right, lower left, lower right.
std::array<Vec, 4> places(const float* upper, const float* lower) {
  const auto [a, b] = at::vec::deinterleave2(Vec::loadu(upper), Vec::loadu(upper + kLanes));
  const auto [c, d] = at::vec::deinterleave2(Vec::loadu(lower), Vec::loadu(lower + kLanes));
  return {a, b, c, d};
}

// Calls `several(j)` for windows j to j + kLanes, which may overlap, and `one(j)` in a row that is shorter.
template <class Several, class One>
void along(int64_t windows, Several several, One one) {
  if (windows < kLanes) {
    for (int64_t j = 0; j < windows; j++) one(j);
    return;
  }
  for (int64_t j = 0; j + kLanes < windows; j += kLanes) several(j);
  several(windows - kLanes);
}

void pool_rows(const float* upper, const float* lower, int64_t windows, float* results) {
  along(
      windows,
      [&](int64_t j) {
        const auto [a, b, c, d] = places(upper + 2 * j, lower + 2 * j);
        const Vec largest = at::vec::maximum(at::vec::maximum(a, b), at::vec::maximum(c, d));
        at::vec::maximum(largest, Vec(0.f)).store(results + j);
      },
      [&](int64_t j) {
        const float *u = upper + 2 * j, *l = lower + 2 * j;
        results[j] = larger(larger(larger(u[0], u[1]), larger(l[0], l[1])), 0.f);
      });
}

// Gives each window's gradient to its first element that equals the result, if that is positive.
void spread_rows(const float* gradients, const float* results, const float* upper, const float* lower,
                 int64_t windows, float* to_upper, float* to_lower) {
  const auto several = [&](int64_t j) {
    const Vec best = Vec::loadu(results + j), none(0.f);
    Vec left = Vec::blendv(none, Vec::loadu(gradients + j), best > none);
    std::array<Vec, 4> shares = places(upper + 2 * j, lower + 2 * j);
    for (Vec& place : shares) {
      const Vec wins = place == best;
      place = Vec::blendv(none, left, wins);
      left = Vec::blendv(left, none, wins);
    }
    const auto [a, b] = at::vec::interleave2(shares[0], shares[1]);
    const auto [c, d] = at::vec::interleave2(shares[2], shares[3]);
    a.store(to_upper + 2 * j);
    b.store(to_upper + 2 * j + kLanes);
    c.store(to_lower + 2 * j);
    d.store(to_lower + 2 * j + kLanes);
  };
  const auto one = [&](int64_t j) {
    float left = results[j] > 0 ? gradients[j] : 0.f;
    for (int64_t place = 0; place < 4; place++) {
      const int64_t at = 2 * j + place % 2;
      const bool wins = (place < 2 ? upper : lower)[at] == results[j];
      (place < 2 ? to_upper : to_lower)[at] = wins ? left : 0.f;
      left = wins ? 0.f : left;
    }
  };
  along(windows, several, one);
}

// Calls `each(row, pixels)` for the rows of windows of all planes; `pixels` is where their upper row begins.
template <class Each>
void over_rows(int64_t planes, int64_t height, int64_t width, Each each) {
  const int64_t rows = height / 2;
  at::parallel_for(0, planes, GRAIN, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; plane++)
      for (int64_t row = 0; row < rows; row++) each(plane * rows + row, (plane * height + 2 * row) * width);
  });
}

// x (B, C, H, W) to (B, C, H / 2, W / 2); a last odd row or column is not seen.
Tensor relu_pool(const Tensor& x_) {
  const Tensor x = x_.contiguous();
  const int64_t height = x.size(2), width = x.size(3), windows = width / 2;
  Tensor result = at::empty({x.size(0), x.size(1), height / 2, windows}, x.options());
  const float* from = x.const_data_ptr<float>();
  float* to = result.mutable_data_ptr<float>();
  over_rows(x.size(0) * x.size(1), height, width, [&](int64_t row, int64_t pixels) {
    pool_rows(from + pixels, from + pixels + width, windows, to + row * windows);
  });
  return result;
}

Tensor relu_pool_backward(const Tensor& gradient_, const Tensor& x_, const Tensor& result) {
  const Tensor gradient = gradient_.contiguous(), x = x_.contiguous();
  const int64_t height = x.size(2), width = x.size(3), windows = width / 2;
  const bool covered = height % 2 == 0 && width % 2 == 0;
  Tensor spread = covered ? at::empty(x.sizes(), x.options()) : at::zeros(x.sizes(), x.options());
  const float *gradients = gradient.const_data_ptr<float>(), *results = result.const_data_ptr<float>();
  const float* from = x.const_data_ptr<float>();
  float* to = spread.mutable_data_ptr<float>();
  over_rows(x.size(0) * x.size(1), height, width, [&](int64_t row, int64_t pixels) {
    const int64_t lower = pixels + width, first = row * windows;
    spread_rows(gradients + first, results + first, from + pixels, from + lower, windows, to + pixels,
                to + lower);
  });
  return spread;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(fedfmd, m) {
  m.def("relu_pool(Tensor x) -> Tensor");
  m.def("relu_pool_backward(Tensor gradient, Tensor x, Tensor result) -> Tensor");
}
TORCH_LIBRARY_IMPL(fedfmd, CPU, m) {
  m.impl("relu_pool", relu_pool);
  m.impl("relu_pool_backward", relu_pool_backward);
}
