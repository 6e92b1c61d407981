// Shapes, and which pixels a tap of the kernel connects: everything that stride, padding and dilation decide.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <vector>

#include "vectors.h"

namespace fedfmd {

constexpr int kPixelBlock = 64;  // written pixels whose sums stay in the first-level cache

struct Shape {
  int64_t batch, groups, kernels, taps, mix_taps;
  int64_t in_channels, out_channels;  // of one group
  int64_t height, width, window_h, window_w, out_h, out_w;
  int64_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int64_t in_pixels() const { return height * width; }
  int64_t out_pixels() const { return out_h * out_w; }
  int64_t mix_offset(int64_t tap) const { return mix_taps == 1 ? 0 : tap * kernels; }
};

inline Shape shape_of(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& mix,
                      at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                      int64_t groups) {
  Shape s;
  s.batch = x.size(0), s.groups = groups, s.kernels = weight.size(0), s.mix_taps = mix.size(1);
  s.height = x.size(2), s.width = x.size(3), s.window_h = weight.size(3), s.window_w = weight.size(4);
  s.taps = s.window_h * s.window_w;
  s.in_channels = weight.size(2), s.out_channels = weight.size(1) / groups;
  s.stride_h = stride[0], s.stride_w = stride[1], s.pad_h = padding[0], s.pad_w = padding[1];
  s.dilation_h = dilation[0], s.dilation_w = dilation[1];
  s.out_h = (s.height + 2 * s.pad_h - s.dilation_h * (s.window_h - 1) - 1) / s.stride_h + 1;
  s.out_w = (s.width + 2 * s.pad_w - s.dilation_w * (s.window_w - 1) - 1) / s.stride_w + 1;
  TORCH_CHECK(x.size(1) == groups * s.in_channels, "input channels ", x.size(1),
              " do not match the kernels' ", groups * s.in_channels);
  TORCH_CHECK(mix.size(0) == s.batch && mix.size(2) == s.kernels && (s.mix_taps == 1 || s.mix_taps == s.taps),
              "mix must be (batch, 1 or taps, kernels), not ", mix.sizes());
  TORCH_CHECK(s.out_h > 0 && s.out_w > 0, "the kernel does not fit the padded input");
  return s;
}

// How the channels of one group are cut into blocks of whole vectors.
struct Lanes {
  int64_t channels, vectors, width, blocks;
  explicit Lanes(int64_t channels_) : channels(channels_) {
    const int64_t all = ceil_div(channels, kLanes);
    vectors = ceil_div(all, ceil_div(all, kMaxVectors));
    width = vectors * kLanes;
    blocks = ceil_div(channels, width);
  }
  int64_t in_block(int64_t block) const { return std::min(width, channels - block * width); }
};

// `count` consecutive pixels, or two such runs of the same length a gap apart.
struct Tile {
  int32_t from, to, count;           // first pixel read, first pixel written, pixels of a run
  int32_t from_gap = 0, to_gap = 0;  // from the first run to the second, 0 without one
};

struct Tiles {
  int64_t from_step, to_step, blocks, taps, longest;
  bool pairs;
  std::vector<std::vector<Tile>> lists;  // [block of written pixels][tap]
  const std::vector<Tile>& at(int64_t block, int64_t tap) const { return lists[block * taps + tap]; }

  // Join short tiles of equal length in pairs: more sums at once keep the arithmetic units busy.
  void append(std::vector<Tile>& list, const Tile& tile) const {
    for (auto last = list.rbegin();
         pairs && 2 * tile.count <= longest && last != list.rend() && last - list.rbegin() < 2; last++)
      if (last->to_gap == 0 && last->count == tile.count) {
        last->from_gap = tile.from - last->from, last->to_gap = tile.to - last->to;
        return;
      }
    list.push_back(tile);
  }

  // Cut a run at the borders of pixel blocks, and each piece into near-equal tiles that fit the registers.
  void add(int64_t tap, int64_t from, int64_t to, int64_t count) {
    while (count > 0) {
      const int64_t block = to / kPixelBlock;
      const int64_t piece = std::min(count, ceil_div((block + 1) * kPixelBlock - to, to_step));
      const int64_t parts = ceil_div(piece, longest);
      for (int64_t i = 0; i < parts; i++) {
        const int64_t start = piece * i / parts, stop = piece * (i + 1) / parts;
        append(lists[block * taps + tap],
               {int32_t(from + start * from_step), int32_t(to + start * to_step), int32_t(stop - start)});
      }
      from += piece * from_step, to += piece * to_step, count -= piece;
    }
  }
};

inline Tiles make_tiles(const Shape& s, bool backward, int64_t longest, bool pairs) {
  const int64_t written = backward ? s.in_pixels() : s.out_pixels();
  Tiles tiles{backward ? 1 : s.stride_w,
              backward ? s.stride_w : 1,
              ceil_div(written, kPixelBlock),
              s.taps,
              longest,
              pairs,
              {}};
  tiles.lists.resize(tiles.blocks * s.taps);
  for (int64_t tap = 0; tap < s.taps; tap++) {
    const int64_t shift_h = tap / s.window_w * s.dilation_h - s.pad_h;
    const int64_t shift_w = tap % s.window_w * s.dilation_w - s.pad_w;
    const int64_t first = shift_w < 0 ? ceil_div(-shift_w, s.stride_w) : 0;
    const int64_t last =
        s.width - 1 < shift_w ? -1 : std::min(s.out_w - 1, (s.width - 1 - shift_w) / s.stride_w);
    if (last < first) continue;
    int64_t in = 0, out = 0, count = 0;  // the open run
    const auto close = [&] { backward ? tiles.add(tap, out, in, count) : tiles.add(tap, in, out, count); };
    for (int64_t oh = 0; oh < s.out_h; oh++) {
      const int64_t ih = oh * s.stride_h + shift_h;
      if (ih < 0 || ih >= s.height) continue;
      const int64_t row_in = ih * s.width + first * s.stride_w + shift_w, row_out = oh * s.out_w + first;
      if (count > 0 && row_in == in + count * s.stride_w && row_out == out + count) {
        count += last - first + 1;
      } else {
        close();
        in = row_in, out = row_out, count = last - first + 1;
      }
    }
    close();
  }
  return tiles;
}

}  // namespace fedfmd
