// Products of small matrices, which a library takes longer to begin than to compute.
//
// Every element of a result is the sum over its terms in order, one rounding each, whatever stands beside it: results
// are the same for any number of threads, and a row does not depend on the others.
#pragma once

#include <ATen/Parallel.h>

#include "vectors.h"

namespace fedfmd {

// Element (i, j) stands at values[i * row + j * column].
struct Strided {
  const float* values;
  int64_t row, column;
};

// Rows of `width` floats, one after another.
struct Rows {
  const float* values;
  int64_t width;
};

constexpr int kTileRows = 4, kTileVectors = 2;
constexpr int64_t kMacsOfAThread = 1 << 18;  // fewer are done before a second thread is awake

// A tile of the product: R rows and V vectors of columns, the last of which has `last` columns.
template <int R, int V>
void product_tile(const Strided& a, const float* b, int64_t b_width, int64_t depth, const float* start,
                  int64_t last, float* c, int64_t c_width) {
  const auto load = [&](const float* from, int v) {
    return v + 1 < V || last == kLanes ? Vec::loadu(from + v * kLanes) : Vec::loadu(from + v * kLanes, last);
  };
  Vec sums[R][V];
  for (int v = 0; v < V; v++) {
    const Vec first = start ? load(start, v) : Vec(0.f);
    for (int r = 0; r < R; r++) sums[r][v] = first;
  }
  for (int64_t k = 0; k < depth; k++) {
    Vec columns[V];
    for (int v = 0; v < V; v++) columns[v] = load(b + k * b_width, v);
    for (int r = 0; r < R; r++) {
      const Vec row(a.values[r * a.row + k * a.column]);
      for (int v = 0; v < V; v++) sums[r][v] = at::vec::fmadd(row, columns[v], sums[r][v]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++)
      sums[r][v].store(c + r * c_width + v * kLanes, v + 1 < V ? int64_t(kLanes) : last);
}

template <int R>
void product_rows(const Strided& a, const Rows& b, int64_t depth, const float* start, int64_t columns, float* c,
                  int64_t c_width) {
  int64_t j = 0;
  const auto from = [&](int64_t j) { return start ? start + j : nullptr; };
  for (; j + kLanes < columns; j += kTileVectors * kLanes)
    product_tile<R, kTileVectors>(a, b.values + j, b.width, depth, from(j),
                                  std::min<int64_t>(kLanes, columns - j - kLanes), c + j, c_width);
  if (j < columns)
    product_tile<R, 1>(a, b.values + j, b.width, depth, from(j), columns - j, c + j, c_width);
}

// c (rows, columns), contiguous, = start (columns) + a (rows, depth) b (depth, columns); without `start` if null.
inline void product(const Strided& a, const Rows& b, int64_t rows, int64_t depth, int64_t columns, float* c,
                    const float* start = nullptr) {
  const int64_t grain = std::max<int64_t>(1, kMacsOfAThread / std::max<int64_t>(1, kTileRows * depth * columns));
  at::parallel_for(0, ceil_div(rows, kTileRows), grain, [&](int64_t begin, int64_t end) {
    int64_t i = begin * kTileRows;
    const int64_t stop = std::min(rows, end * kTileRows);
    const auto at = [&](int64_t i) { return Strided{a.values + i * a.row, a.row, a.column}; };
    for (; i + kTileRows <= stop; i += kTileRows)
      product_rows<kTileRows>(at(i), b, depth, start, columns, c + i * columns, columns);
    for (; i < stop; i++) product_rows<1>(at(i), b, depth, start, columns, c + i * columns, columns);
  });
}

// The columns of `values` (rows, columns) as rows, each filled up with zeros to whole vectors.
class Transposed {
 public:
  Transposed(const float* values, int64_t rows, int64_t columns)
      : width_(ceil_div(rows, kLanes) * kLanes), buffer_(columns * width_) {
    if (width_ != rows) buffer_.zero();
    for (int64_t i = 0; i < rows; i++)
      for (int64_t j = 0; j < columns; j++) buffer_[j * width_ + i] = values[i * columns + j];
  }
  Rows rows() const { return {buffer_.data(), width_}; }

 private:
  int64_t width_;
  Buffer buffer_;
};

}  // namespace fedfmd
