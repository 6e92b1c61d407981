// What augmentation makes of stored images, in one pass: shift, mirror and normalise.
//
// A byte has 256 values, so normalising is a look-up: the table is computed by the PyTorch operations that this
// stands for, and the result has their bits.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace {

using at::Tensor;

constexpr int64_t GRAIN = 16;  // images

// The part of a stored row that is seen through a window of `width` pixels from `first`; black beyond the row.
void cut(const uint8_t* row, int64_t stored, int64_t first, bool mirrored, int64_t width, uint8_t* seen) {
  const int64_t from = std::max<int64_t>(first, 0), to = std::min(first + width, stored);
  std::memset(seen, 0, width);
  if (from < to) std::memcpy(seen + (from - first), row + from, to - from);
  if (mirrored) std::reverse(seen, seen + width);
}

// images (B, c, h, w) bytes; tops and lefts (B,): where the window of (height, width) begins, in stored pixels;
// mirrors (B,); table (C, 256), with c = C or one channel for all. Returns (B, C, height, width).
Tensor seen_images(const Tensor& images, const Tensor& tops, const Tensor& lefts, const Tensor& mirrors,
                   const Tensor& table, int64_t height, int64_t width) {
  TORCH_CHECK(images.dim() == 4 && images.scalar_type() == at::kByte && images.is_contiguous(), "not byte images");
  TORCH_CHECK(table.dim() == 2 && table.size(1) == 256 && table.scalar_type() == at::kFloat, "not a table");
  const int64_t batch = images.size(0), stored = images.size(1), rows = images.size(2), columns = images.size(3);
  const int64_t channels = table.size(0);
  TORCH_CHECK(stored == channels || stored == 1, "images have ", stored, " channels, and the table ", channels);
  for (const Tensor* moves : {&tops, &lefts, &mirrors})
    TORCH_CHECK(moves->numel() == batch && moves->is_contiguous(), "not one move for each image");
  Tensor result = at::empty({batch, channels, height, width}, table.options());
  const uint8_t* pixels = images.const_data_ptr<uint8_t>();
  const int64_t *top = tops.const_data_ptr<int64_t>(), *left = lefts.const_data_ptr<int64_t>();
  const bool* mirror = mirrors.const_data_ptr<bool>();
  const Tensor levels = table.contiguous();
  const float* values = levels.const_data_ptr<float>();
  float* to = result.mutable_data_ptr<float>();
  at::parallel_for(0, batch, GRAIN, [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> seen(width);
    for (int64_t b = begin; b < end; b++)
      for (int64_t c = 0; c < channels; c++)
        for (int64_t y = 0; y < height; y++) {
          const int64_t row = top[b] + y, plane = b * stored + (stored == 1 ? 0 : c);
          const bool inside = row >= 0 && row < rows;
          cut(pixels + (plane * rows + (inside ? row : 0)) * columns, inside ? columns : 0, left[b], mirror[b],
              width, seen.data());
          float* out = to + ((b * channels + c) * height + y) * width;
          for (int64_t x = 0; x < width; x++) out[x] = values[c * 256 + seen[x]];
        }
  });
  return result;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(fedfmd, m) {
  m.def(
      "seen_images(Tensor images, Tensor tops, Tensor lefts, Tensor mirrors, Tensor table, int height, int width) "
      "-> Tensor");
}
TORCH_LIBRARY_IMPL(fedfmd, CPU, m) { m.impl("seen_images", seen_images); }
