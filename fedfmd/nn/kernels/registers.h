// The innermost loops: everything is a sum kept in registers.
#pragma once

#include <array>
#include <utility>
#include <vector>

#include "geometry.h"
#include "vectors.h"

namespace fedfmd {

// mixed[t][row] = sum_k mix[t][k] W_k[row], for T samples at once so that W is read once.
struct MixArgs {
  const float* weight;
  int64_t kernels;
  const float* mix;
  int64_t next_mix, rows, next_row;
  float* mixed;
  int64_t next_mixed;
};
template <int T, int V>
void mix_rows(const MixArgs& a) {
  float* mixed = a.mixed;
  const int64_t kernels = a.kernels, next_mix = a.next_mix;
  for (int64_t r = 0; r < a.rows; r++, mixed += V * kLanes) {
    const float* weight = a.weight + r * a.next_row;
    Vec sum[T][V];
#pragma GCC unroll 8
    for (int t = 0; t < T; t++)
#pragma GCC unroll 4
      for (int j = 0; j < V; j++) sum[t][j] = Vec(0.f);
    for (int64_t k = 0; k < kernels; k++, weight += V * kLanes) {
      Vec w[V];
#pragma GCC unroll 4
      for (int j = 0; j < V; j++) w[j] = Vec::loadu(weight + j * kLanes);
#pragma GCC unroll 8
      for (int t = 0; t < T; t++) {
        const Vec m(a.mix[t * next_mix + k]);
#pragma GCC unroll 4
        for (int j = 0; j < V; j++) sum[t][j] = at::vec::fmadd(m, w[j], sum[t][j]);
      }
    }
#pragma GCC unroll 8
    for (int t = 0; t < T; t++)
#pragma GCC unroll 4
      for (int j = 0; j < V; j++) sum[t][j].store(mixed + t * a.next_mixed + j * kLanes);
  }
}

template <int T, int V>
void mix_samples(MixArgs args, int64_t samples) {
  if (samples == T) return mix_rows<T, V>(args);
  for (; samples > 0; samples--) {
    mix_rows<1, V>(args);
    args.mix += args.next_mix, args.mixed += args.next_mixed;
  }
}

// y[pixel][lane] += sum_d x[pixel][d] kernel[d][lane] for R runs of N pixels and V vectors of lanes.
struct TileArgs {
  const float* kernel;
  const float* x;
  float* y;
  int64_t next_x, next_y, gap_x, gap_y, depth;
};
template <int N, int R, int V>
void convolve_tile(const TileArgs& a) {
  Vec sum[R][N][V];
  const float *kernel = a.kernel, *x[R];
  float* y[R];
#pragma GCC unroll 2
  for (int r = 0; r < R; r++) x[r] = a.x + r * a.gap_x, y[r] = a.y + r * a.gap_y;
  const int64_t next_x = a.next_x, next_y = a.next_y;
#pragma GCC unroll 2
  for (int r = 0; r < R; r++)
#pragma GCC unroll 16
    for (int i = 0; i < N; i++)
#pragma GCC unroll 4
      for (int j = 0; j < V; j++) sum[r][i][j] = Vec::loadu(y[r] + i * next_y + j * kLanes);
  for (int64_t d = 0; d < a.depth; d++, kernel += V * kLanes) {
    Vec w[V];
#pragma GCC unroll 4
    for (int j = 0; j < V; j++) w[j] = Vec::loadu(kernel + j * kLanes);
#pragma GCC unroll 2
    for (int r = 0; r < R; r++)
#pragma GCC unroll 16
      for (int i = 0; i < N; i++) {
        const Vec v(x[r][d + i * next_x]);
#pragma GCC unroll 4
        for (int j = 0; j < V; j++) sum[r][i][j] = at::vec::fmadd(v, w[j], sum[r][i][j]);
      }
  }
#pragma GCC unroll 2
  for (int r = 0; r < R; r++)
#pragma GCC unroll 16
    for (int i = 0; i < N; i++)
#pragma GCC unroll 4
      for (int j = 0; j < V; j++) sum[r][i][j].store(y[r] + i * next_y + j * kLanes);
}

// gradient[d][lane] (+)= sum over the tiles' pixels of x[pixel][d] g[pixel][lane], N depths, V vectors of
// lanes.
struct GradientArgs {
  const std::vector<Tile>* tiles;
  const float* x;
  const float* g;
  float* gradient;
  int64_t next_x, step_x;
  bool first;
};
template <int N, int V>
void gradient_tile(const GradientArgs& a) {
  Vec sum[N][V];
  float* gradient = a.gradient;
#pragma GCC unroll 16
  for (int i = 0; i < N; i++)
#pragma GCC unroll 4
    for (int j = 0; j < V; j++) sum[i][j] = a.first ? Vec(0.f) : Vec::loadu(gradient + (i * V + j) * kLanes);
  for (const Tile& tile : *a.tiles) {
    const float* x = a.x + tile.from * a.next_x;
    const float* g = a.g + tile.to * V * kLanes;
    for (int p = 0; p < tile.count; p++, x += a.step_x, g += V * kLanes) {
      Vec w[V];
#pragma GCC unroll 4
      for (int j = 0; j < V; j++) w[j] = Vec::loadu(g + j * kLanes);
#pragma GCC unroll 16
      for (int i = 0; i < N; i++) {
        const Vec v(x[i]);
#pragma GCC unroll 4
        for (int j = 0; j < V; j++) sum[i][j] = at::vec::fmadd(v, w[j], sum[i][j]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < N; i++)
#pragma GCC unroll 4
    for (int j = 0; j < V; j++) sum[i][j].store(gradient + (i * V + j) * kLanes);
}

// For T samples with kernel gradients g_t (rows x lanes) and P kernels: dot[p][t] += sum_rows g_t W_p and
// dW_p += sum_t mix_pt scale_t g_t.
struct ReduceArgs {
  const float *gradient, *weight, *scaled_mix;
  float *grad_weight, *dot;
  int64_t next_gradient, next_mix, next_dot, next_dot_kernel, rows, next_row, next_weight_row;
};
template <int T, int P>
void reduce_rows(const ReduceArgs& a) {
  Vec coefficient[P][T], sum[P][T];
#pragma GCC unroll 2
  for (int p = 0; p < P; p++)
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) {
      coefficient[p][t] = Vec::loadu(a.scaled_mix + p * a.next_mix + t * kLanes);
      sum[p][t] = Vec::loadu(a.dot + p * a.next_dot_kernel + t * a.next_dot);
    }
  const float *gradient = a.gradient, *weight = a.weight;
  float* grad_weight = a.grad_weight;
  const int64_t next_gradient = a.next_gradient, next_row = a.next_row, next_weight = a.next_weight_row;
  for (int64_t r = 0; r < a.rows;
       r++, gradient += next_row, weight += next_weight, grad_weight += next_weight) {
    Vec w[P], dw[P];
#pragma GCC unroll 2
    for (int p = 0; p < P; p++)
      w[p] = Vec::loadu(weight + p * next_row), dw[p] = Vec::loadu(grad_weight + p * next_row);
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) {
      const Vec g = Vec::loadu(gradient + t * next_gradient);
#pragma GCC unroll 2
      for (int p = 0; p < P; p++) {
        sum[p][t] = at::vec::fmadd(g, w[p], sum[p][t]);
        dw[p] = at::vec::fmadd(coefficient[p][t], g, dw[p]);
      }
    }
#pragma GCC unroll 2
    for (int p = 0; p < P; p++) dw[p].store(grad_weight + p * next_row);
  }
#pragma GCC unroll 2
  for (int p = 0; p < P; p++)
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) sum[p][t].store(a.dot + p * a.next_dot_kernel + t * a.next_dot);
}

template <int T>
void reduce_samples(ReduceArgs args, int64_t samples, bool two_kernels) {
  if (samples == T) return two_kernels ? reduce_rows<T, 2>(args) : reduce_rows<T, 1>(args);
  for (; samples > 0; samples--) {
    two_kernels ? reduce_rows<1, 2>(args) : reduce_rows<1, 1>(args);
    args.gradient += args.next_gradient, args.scaled_mix += kLanes, args.dot += args.next_dot;
  }
}

// The kernels by their number of rows (less one).
template <int V, int R, size_t... N>
constexpr auto convolve_table(std::index_sequence<N...>) {
  return std::array{&convolve_tile<int(N) + 1, R, V>...};
}
template <int V, size_t... N>
constexpr auto gradient_table(std::index_sequence<N...>) {
  return std::array{&gradient_tile<int(N) + 1, V>...};
}
template <int V>
constexpr auto kConvolveRun = convolve_table<V, 1>(std::make_index_sequence<max_rows(V)>());
template <int V>
constexpr auto kConvolvePair = convolve_table<V, 2>(std::make_index_sequence<max_rows(V) / 2>());
template <int V>
constexpr auto kGradient = gradient_table<V>(std::make_index_sequence<max_rows(V)>());

template <typename Body>
void with_vectors(int64_t vectors, Body&& body) {
  if (vectors == 1) return body(std::integral_constant<int, 1>());
  if (vectors == 2) return body(std::integral_constant<int, 2>());
  if constexpr (kMaxVectors == 4) {
    if (vectors == 3) return body(std::integral_constant<int, 3>());
    if (vectors == 4) return body(std::integral_constant<int, 4>());
  }
  TORCH_INTERNAL_ASSERT(false);
}

}  // namespace fedfmd
