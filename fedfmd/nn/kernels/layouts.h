// Copies between PyTorch's layouts and the kernels': activations [pixel][channel], weights
// [tap][k][depth][lane].
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>

#include "geometry.h"
#include "vectors.h"

namespace fedfmd {

// dst[column][row] = src[row][column] of a square of lanes, in registers: inlined, ATen's loops have constant
// bounds.
[[gnu::flatten]] inline void transpose_square(const float* src, int64_t src_ld, float* dst, int64_t dst_ld) {
  at::vec::transpose_mxn<float, kLanes, kLanes>(src, src_ld, dst, dst_ld);
}

// dst[column][row] = src[row][column]
inline void transpose(const float* src, int64_t src_ld, float* dst, int64_t dst_ld, int64_t rows,
                      int64_t columns) {
  for (int64_t r = 0; r < rows; r += kLanes)
    for (int64_t c = 0; c < columns; c += kLanes) {
      const float* from = src + r * src_ld + c;
      float* to = dst + c * dst_ld + r;
      const int64_t height = std::min<int64_t>(kLanes, rows - r),
                    width = std::min<int64_t>(kLanes, columns - c);
      if (height == kLanes && width == kLanes) {
        transpose_square(from, src_ld, to, dst_ld);
        continue;
      }
      for (int64_t j = 0; j < width; j++)
        for (int64_t i = 0; i < height; i++) to[j * dst_ld + i] = from[i * src_ld + j];
    }
}

// Channels of one (sample, group) as lanes: scale[channel], padded with zeros; ones where there is no scale.
inline void load_lanes(const float* values, int64_t count, int64_t width, float absent, float* lanes) {
  std::fill(lanes, lanes + width, 0.f);
  if (values)
    std::copy(values, values + count, lanes);
  else
    std::fill(lanes, lanes + count, absent);
}

// Activations as PyTorch stores them, (batch, groups * channels, pixels), and what each channel of a sample is
// to be multiplied by, (batch, groups * channels), or null.
struct Activations {
  const float *values, *scale;
  Lanes lanes;
  int64_t batch, groups, pixels;

  int64_t block_size() const { return pixels * lanes.width; }
  int64_t group_size() const { return lanes.blocks * block_size(); }

  // The i-th block of lanes of all groups and samples, as [pixel][lane].
  void pack(int64_t i, float* to) const {
    const int64_t block = i % lanes.blocks, count = lanes.in_block(block);
    const int64_t channel = i / lanes.blocks * lanes.channels + block * lanes.width;
    if (count < lanes.width) std::fill_n(to, block_size(), 0.f);
    transpose(values + channel * pixels, pixels, to, lanes.width, count, pixels);
    if (!scale) return;
    std::array<float, kMaxVectors * kLanes> factor;
    load_lanes(scale + channel, count, lanes.width, 1.f, factor.data());
    for (int64_t p = 0; p < pixels; p++, to += lanes.width)
      for (int64_t j = 0; j < lanes.width; j += kLanes)
        (Vec::loadu(to + j) * Vec::loadu(&factor[j])).store(to + j);
  }

  // One group of some samples, as [sample][block][pixel][lane].
  void pack(int64_t group, int64_t first, int64_t last, float* to) const {
    for (int64_t b = first; b < last; b++)
      for (int64_t block = 0; block < lanes.blocks; block++, to += block_size())
        pack((b * groups + group) * lanes.blocks + block, to);
  }

  // All of them, as [sample][group][block][pixel][lane].
  Buffer packed() const {
    Buffer all(batch * groups * group_size());
    at::parallel_for(0, batch * groups * lanes.blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) pack(i, &all[i * block_size()]);
    });
    return all;
  }
};

constexpr int64_t kWeightBlock = 160 * 1024;  // floats of a copied block of W: half of a second-level cache

// A copied block of W, [depth][tap][k][lane], which keeps the order of W's own rows: packing is transposing.  Lanes are output
// channels and the depth input channels, or, for the input gradient, the reverse.
struct WeightBlock {
  int64_t taps, kernels, depth, width;
  int64_t size() const { return taps * kernels * depth * width; }
  int64_t next_depth() const { return taps * kernels * width; }
  int64_t offset(int64_t tap, int64_t d, int64_t k) const {
    return ((d * taps + tap) * kernels + k) * width;
  }
};

// Depths of a block of W that fit the cache.
inline int64_t depth_step(const Shape& s, int64_t width, int64_t most) {
  return std::clamp<int64_t>(kWeightBlock / (s.kernels * s.taps * width) / 8 * 8, 8, most);
}

// Fetches the part W[k][o0 ...][c0 ...] of every kernel, a few rows a turn, while another part is in use: W
// is read from memory once for each pass, which would otherwise take a tenth of it.
class Ahead {
 public:
  Ahead(const Shape& s, const float* weight, int64_t o0, int64_t outputs, int64_t c0, int64_t inputs,
        int64_t turns)
      : row_size_(s.in_channels * s.taps),
        kernel_size_(s.groups * s.out_channels * row_size_),
        first_(weight + o0 * row_size_ + c0 * s.taps),
        rows_(outputs),
        length_(inputs * s.taps),
        all_(outputs > 0 && inputs > 0 ? outputs * s.kernels : 0),
        per_turn_(ceil_div(all_, std::max<int64_t>(1, turns))) {}

  void fetch() {
    for (int64_t stop = std::min(all_, next_ + per_turn_); next_ < stop; next_++) {
      const float* row = first_ + next_ / rows_ * kernel_size_ + next_ % rows_ * row_size_;
      for (int64_t i = 0; i < length_; i += 16) __builtin_prefetch(row + i, 0, 2);
    }
  }

 private:
  int64_t row_size_, kernel_size_;
  const float* first_;
  int64_t rows_, length_, all_, per_turn_, next_ = 0;
};

// W[k][o0 + lane][c0 + d][tap] for every tap, k, d, lane.
inline void pack_by_output(const Shape& s, const float* weight, int64_t o0, int64_t outputs, int64_t c0,
                           const WeightBlock& block, float* packed) {
  const int64_t row = s.in_channels * s.taps, columns = block.depth * s.taps;
  if (outputs < block.width) std::fill(packed, packed + block.size(), 0.f);
  for (int64_t k = 0; k < s.kernels; k++)
    transpose(weight + (k * s.groups * s.out_channels + o0) * row + c0 * s.taps, row, packed + k * block.width,
              s.kernels * block.width, outputs, columns);
}

// The reverse of pack_by_output.
inline void unpack_by_output(const Shape& s, const float* packed, int64_t o0, int64_t outputs, int64_t c0,
                             const WeightBlock& block, float* weight) {
  const int64_t row = s.in_channels * s.taps, columns = block.depth * s.taps;
  for (int64_t k = 0; k < s.kernels; k++)
    transpose(packed + k * block.width, s.kernels * block.width,
              weight + (k * s.groups * s.out_channels + o0) * row + c0 * s.taps, row, columns, outputs);
}

// W[k][o0 + d][c0 + lane][tap] for every tap, k, d, lane.
inline void pack_by_input(const Shape& s, const float* weight, int64_t c0, int64_t inputs, int64_t o0,
                          const WeightBlock& block, float* packed) {
  alignas(64) float square[kLanes * kLanes];
  Buffer copy(block.width * s.taps + kLanes);
  copy.zero();
  const int64_t row = s.in_channels * s.taps;
  const float* end = weight + s.kernels * s.groups * s.out_channels * row;
  for (int64_t k = 0; k < s.kernels; k++)
    for (int64_t d = 0; d < block.depth; d++) {
      const float* line = weight + (k * s.groups * s.out_channels + o0 + d) * row + c0 * s.taps;
      if (inputs < block.width || end - line < (block.width + 1) * s.taps + kLanes) {  // or squares would end beyond W
        std::copy(line, line + inputs * s.taps, copy.data());
        line = copy.data();
      }
      for (int64_t c = 0; c < block.width; c += kLanes)
        for (int64_t tap = 0; tap < s.taps; tap += kLanes) {
          if (s.taps == 1)
            std::copy_n(line + c, kLanes, square);
          else
            transpose_square(line + c * s.taps + tap, s.taps, square, kLanes);
          for (int64_t i = 0; i < std::min<int64_t>(kLanes, s.taps - tap); i++)
            Vec::loadu(square + i * kLanes).store(packed + block.offset(tap + i, d, k) + c);
        }
    }
}

}  // namespace fedfmd
