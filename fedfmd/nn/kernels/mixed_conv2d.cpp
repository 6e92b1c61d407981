// Convolution of every sample b with its own mixture  sum_k mix[b,k] W_k  of K shared kernels, on the CPU.
//
// The mixed kernels (B of them, each as large as W_k) are never stored: a block of W is copied to the cache
// once, and for every sample the block is mixed, used at once and forgotten.  The layout makes all three
// convolutions the same few loops:
//   * activations are copied to [pixel][channel], weights to [tap][k][depth][lane]: a vector ("lanes") runs
//   over
//     the channels that are written, the depth over the channels that are summed;
//   * geometry (stride, padding, dilation) lives in a table of tiles, the runs of pixels that one tap
//   connects;
//     padded taps are simply absent from it.  The input gradient is the forward pass with that table
//     reversed.
// Every sum has one fixed order that depends on shapes alone, so results are the same for any number of
// threads, and a sample's results do not depend on the rest of its batch.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/cpu/vec/vec.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sum.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <memory>
#include <new>
#include <optional>
#include <utility>
#include <vector>

namespace {

using at::IntArrayRef;
using at::Tensor;
using OptTensor = std::optional<Tensor>;
using Vec = at::vec::Vectorized<float>;

// Memory aligned to cache lines (a vector load across two lines costs double), not initialised unless by
// `zero`.
class Buffer {
 public:
  explicit Buffer(int64_t size) : size_(size), values_(new (std::align_val_t(64)) float[size]) {}
  float* data() { return values_.get(); }
  const float* data() const { return values_.get(); }
  float& operator[](int64_t i) { return values_[i]; }
  const float& operator[](int64_t i) const { return values_[i]; }
  void zero() { std::fill_n(values_.get(), size_, 0.f); }

 private:
  int64_t size_;
  struct Free {
    void operator()(float* values) const { ::operator delete[](values, std::align_val_t(64)); }
  };
  std::unique_ptr<float[], Free> values_;
};

constexpr int kLanes = Vec::size();
#if defined(CPU_CAPABILITY_AVX512) || defined(__aarch64__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif
constexpr int kMaxVectors = kRegisters / 8;   // lane vectors in a register tile
constexpr int kPixelBlock = 64;               // written pixels whose sums stay in the first-level cache
constexpr int64_t kWeightBlock = 160 * 1024;  // floats of a copied block of W: half of a second-level cache
constexpr int64_t kSumsBlock = 96 * 1024;     // floats of unfinished sums a task keeps

// Rows of a register tile with `vectors` lane vectors: accumulators, one vector of each lane, one broadcast.
constexpr int max_rows(int vectors) { return std::min((kRegisters - vectors - 1) / vectors, 14); }

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// ---------------------------------------------------------------- shapes

struct Shape {
  int64_t batch, groups, kernels, taps, mix_taps;
  int64_t in_channels, out_channels;  // of one group
  int64_t height, width, window_h, window_w, out_h, out_w;
  int64_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int64_t in_pixels() const { return height * width; }
  int64_t out_pixels() const { return out_h * out_w; }
};

Shape shape_of(const Tensor& x, const Tensor& weight, const Tensor& mix, IntArrayRef stride,
               IntArrayRef padding, IntArrayRef dilation, int64_t groups) {
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

// ---------------------------------------------------------------- tiles: which pixels a tap connects

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

Tiles make_tiles(const Shape& s, bool backward, int64_t longest, bool pairs) {
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

// ---------------------------------------------------------------- copies between layouts

// dst[column][row] = src[row][column] of a square of lanes, in registers: inlined, ATen's loops have constant
// bounds.
[[gnu::flatten]] void transpose_square(const float* src, int64_t src_ld, float* dst, int64_t dst_ld) {
  at::vec::transpose_mxn<float, kLanes, kLanes>(src, src_ld, dst, dst_ld);
}

// dst[column][row] = src[row][column]
void transpose(const float* src, int64_t src_ld, float* dst, int64_t dst_ld, int64_t rows, int64_t columns) {
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
void load_lanes(const float* values, int64_t count, int64_t width, float absent, float* lanes) {
  std::fill(lanes, lanes + width, 0.f);
  if (values)
    std::copy(values, values + count, lanes);
  else
    std::fill(lanes, lanes + count, absent);
}

// (batch, channels, pixels) -> [batch][group][block][pixel][lane], times scale[batch][channel] if there is
// one.
Buffer pack_pixels(const float* x, const float* scale, int64_t batch, int64_t groups, const Lanes& lanes,
                   int64_t pixels) {
  Buffer packed(batch * groups * lanes.blocks * pixels * lanes.width);
  at::parallel_for(0, batch * groups * lanes.blocks, 1, [&](int64_t begin, int64_t end) {
    Buffer factor(lanes.width);
    for (int64_t i = begin; i < end; i++) {
      const int64_t block = i % lanes.blocks, count = lanes.in_block(block);
      const int64_t channel = i / lanes.blocks * lanes.channels + block * lanes.width;
      float* to = &packed[i * pixels * lanes.width];
      if (count < lanes.width) std::fill_n(to, pixels * lanes.width, 0.f);
      transpose(x + channel * pixels, pixels, to, lanes.width, count, pixels);
      if (!scale) continue;
      load_lanes(scale + channel, count, lanes.width, 1.f, factor.data());
      for (int64_t p = 0; p < pixels; p++, to += lanes.width)
        for (int64_t j = 0; j < lanes.width; j += kLanes)
          (Vec::loadu(to + j) * Vec::loadu(&factor[j])).store(to + j);
    }
  });
  return packed;
}

// A block of W, [tap][k][depth][lane].  The lanes are output channels (`weights_by_output`, where a block has
// the depth `depth` of input channels) or, for the input gradient, input channels.
struct WeightBlock {
  int64_t taps, kernels, depth, width;
  int64_t size() const { return taps * kernels * depth * width; }
  int64_t offset(int64_t tap, int64_t k) const { return (tap * kernels + k) * depth * width; }
};

// The rows of W that a block is copied from.  The next block's rows are fetched, a few at a time, while this
// block is in use: W is read from memory once for each pass, which would otherwise take up to a fifth of it.
class Ahead {
 public:
  Ahead(const float* first, int64_t rows, int64_t next_row, int64_t next_kernel, int64_t kernels,
        int64_t length, int64_t turns)
      : first_(first),
        rows_(rows),
        next_row_(next_row),
        next_kernel_(next_kernel),
        length_(length),
        all_(first ? rows * kernels : 0),
        per_turn_(ceil_div(all_, std::max<int64_t>(1, turns))) {}
  void fetch() {
    for (int64_t stop = std::min(all_, row_ + per_turn_); row_ < stop; row_++) {
      const float* row = first_ + row_ / rows_ * next_kernel_ + row_ % rows_ * next_row_;
      for (int64_t i = 0; i < length_; i += 16) __builtin_prefetch(row + i, 0, 2);
    }
  }

 private:
  const float* first_;
  int64_t rows_, next_row_, next_kernel_, length_, all_, per_turn_, row_ = 0;
};

// W[k][o0 + lane][c0 + d][tap] for every tap, k, d, lane.
void pack_by_output(const Shape& s, const float* weight, int64_t o0, int64_t outputs, int64_t c0,
                    const WeightBlock& block, float* packed) {
  const int64_t row = s.in_channels * s.taps, columns = block.depth * s.taps;
  alignas(64) float square[kLanes * kLanes];
  if (outputs < block.width) std::fill(packed, packed + block.size(), 0.f);
  for (int64_t k = 0; k < s.kernels; k++)
    for (int64_t o = 0; o < outputs; o += kLanes) {
      const float* from = weight + (k * s.groups * s.out_channels + o0 + o) * row + c0 * s.taps;
      const int rows = int(std::min<int64_t>(kLanes, outputs - o));
      int64_t tap = 0, d = 0;
      for (int64_t n = 0; n < columns; n += kLanes) {
        const int here = int(std::min<int64_t>(kLanes, columns - n));
        transpose(from + n, row, square, kLanes, rows, here);
        for (int i = 0; i < here; i++) {
          float* to = packed + block.offset(tap, k) + d * block.width + o;
          if (rows == kLanes)
            Vec::loadu(square + i * kLanes).store(to);
          else
            std::copy(square + i * kLanes, square + i * kLanes + rows, to);
          if (++tap == s.taps) tap = 0, d++;
        }
      }
    }
}

// The reverse of pack_by_output.
void unpack_by_output(const Shape& s, const float* packed, int64_t o0, int64_t outputs, int64_t c0,
                      const WeightBlock& block, float* weight) {
  const int64_t row = s.in_channels * s.taps, columns = block.depth * s.taps;
  alignas(64) float square[kLanes * kLanes];
  for (int64_t k = 0; k < s.kernels; k++)
    for (int64_t o = 0; o < outputs; o += kLanes) {
      float* to = weight + (k * s.groups * s.out_channels + o0 + o) * row + c0 * s.taps;
      const int rows = int(std::min<int64_t>(kLanes, outputs - o));
      int64_t tap = 0, d = 0;
      for (int64_t n = 0; n < columns; n += kLanes) {
        const int here = int(std::min<int64_t>(kLanes, columns - n));
        for (int i = 0; i < here; i++) {
          Vec::loadu(packed + block.offset(tap, k) + d * block.width + o).store(square + i * kLanes);
          if (++tap == s.taps) tap = 0, d++;
        }
        transpose(square, kLanes, to + n, row, here, rows);
      }
    }
}

// W[k][o0 + d][c0 + lane][tap] for every tap, k, d, lane.
void pack_by_input(const Shape& s, const float* weight, int64_t c0, int64_t inputs, int64_t o0,
                   const WeightBlock& block, float* packed) {
  alignas(64) float square[kLanes * kLanes];
  Buffer line(block.width * s.taps + kLanes);  // a copy with room, so that whole squares may be read
  line.zero();
  for (int64_t k = 0; k < s.kernels; k++)
    for (int64_t d = 0; d < block.depth; d++) {
      const float* from = weight + ((k * s.groups * s.out_channels + o0 + d) * s.in_channels + c0) * s.taps;
      std::copy(from, from + inputs * s.taps, line.data());
      for (int64_t c = 0; c < block.width; c += kLanes)
        for (int64_t tap = 0; tap < s.taps; tap += kLanes) {
          if (s.taps == 1)
            std::copy_n(&line[c], kLanes, square);
          else
            transpose_square(&line[c * s.taps + tap], s.taps, square, kLanes);
          for (int64_t i = 0; i < std::min<int64_t>(kLanes, s.taps - tap); i++)
            Vec::loadu(square + i * kLanes).store(packed + block.offset(tap + i, k) + d * block.width + c);
        }
    }
}

// ---------------------------------------------------------------- register kernels

// mixed[t][row] = sum_k mix[t][k] W_k[row], for T samples at once so that W is read once.
template <int T, int V>
void mix_rows(const float* weight, int64_t next_kernel, int64_t kernels, const float* mix, int64_t next_mix,
              int64_t rows, float* mixed, int64_t next_mixed) {
  for (int64_t r = 0; r < rows; r++, weight += V * kLanes, mixed += V * kLanes) {
    Vec sum[T][V];
#pragma GCC unroll 8
    for (int t = 0; t < T; t++)
#pragma GCC unroll 4
      for (int j = 0; j < V; j++) sum[t][j] = Vec(0.f);
    for (int64_t k = 0; k < kernels; k++) {
      Vec w[V];
#pragma GCC unroll 4
      for (int j = 0; j < V; j++) w[j] = Vec::loadu(weight + k * next_kernel + j * kLanes);
#pragma GCC unroll 8
      for (int t = 0; t < T; t++) {
        const Vec m(mix[t * next_mix + k]);
#pragma GCC unroll 4
        for (int j = 0; j < V; j++) sum[t][j] = at::vec::fmadd(m, w[j], sum[t][j]);
      }
    }
#pragma GCC unroll 8
    for (int t = 0; t < T; t++)
#pragma GCC unroll 4
      for (int j = 0; j < V; j++) sum[t][j].store(mixed + t * next_mixed + j * kLanes);
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

float add_lanes(const Vec& v) {
  float lanes[kLanes], sum = 0;
  v.store(lanes);
  for (const float lane : lanes) sum += lane;
  return sum;
}

// For T samples with kernel gradients g_t (rows x lanes) and P kernels: dot[p][t] += sum_rows g_t W_p and
// dW_p += sum_t mix_pt scale_t g_t.
struct ReduceArgs {
  const float *gradient, *weight, *scaled_mix;
  float *grad_weight, *dot;
  int64_t next_gradient, next_kernel, next_mix, next_dot, next_dot_kernel, rows, width;
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
  const int64_t next_gradient = a.next_gradient, next_kernel = a.next_kernel, width = a.width;
  for (int64_t r = 0; r < a.rows; r++, gradient += width, weight += width, grad_weight += width) {
    Vec w[P], dw[P];
#pragma GCC unroll 2
    for (int p = 0; p < P; p++)
      w[p] = Vec::loadu(weight + p * next_kernel), dw[p] = Vec::loadu(grad_weight + p * next_kernel);
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
    for (int p = 0; p < P; p++) dw[p].store(grad_weight + p * next_kernel);
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

// ---------------------------------------------------------------- output and input gradient

// One direction of the convolution: from `depth` channels at `from_pixels` to `lanes` channels at
// `to_pixels`.
struct Direction {
  bool backward;
  Lanes depth, lanes;
  int64_t from_pixels, to_pixels;
  Tiles tiles;
  Direction(const Shape& s, bool backward_)
      : backward(backward_),
        depth(backward ? s.out_channels : s.in_channels),
        lanes(backward ? s.in_channels : s.out_channels),
        from_pixels(backward ? s.out_pixels() : s.in_pixels()),
        to_pixels(backward ? s.in_pixels() : s.out_pixels()),
        tiles(make_tiles(s, backward, max_rows(int(lanes.vectors)), true)) {}
};

int64_t depth_step(const Shape& s, int64_t width, int64_t most) {
  const int64_t fits = kWeightBlock / (s.kernels * s.taps * width) / 8 * 8;
  return std::clamp<int64_t>(fits, 8, most);
}

// sums[sample][pixel][lane] of samples [first, last), one block of lanes in one group.
template <int V>
void convolve_block(const Shape& s, const Direction& way, const float* packed, const float* weight,
                    const float* mix, int64_t group, int64_t lane_block, int64_t first, int64_t last,
                    float* sums) {
  constexpr int64_t width = V * kLanes;
  const bool small = way.tiles.blocks == 1;  // mix and use tap by tap, in the first-level cache
  const int64_t together = way.to_pixels <= kPixelBlock / 2 ? 2 : 1, step = depth_step(s, width, 64);
  const int64_t lane0 = lane_block * width, mix_size = s.mix_taps * s.kernels;
  Buffer weights(s.kernels * s.taps * step * width), mixed(together * (small ? 1 : s.taps) * step * width);
  std::fill_n(sums, (last - first) * way.to_pixels * width, 0.f);
  for (int64_t d0 = 0; d0 < way.depth.channels;) {
    const int64_t in_block = d0 % way.depth.width;
    const WeightBlock block{s.taps, s.kernels,
                            std::min({step, way.depth.width - in_block, way.depth.channels - d0}), width};
    const int64_t lanes = way.lanes.in_block(lane_block);
    if (way.backward)
      pack_by_input(s, weight, lane0, lanes, group * s.out_channels + d0, block, weights.data());
    else
      pack_by_output(s, weight, group * s.out_channels + lane0, lanes, d0, block, weights.data());
    const int64_t one = block.depth * width, taps_at_once = small ? 1 : s.taps;
    const int64_t next = d0 + block.depth, next_depth = std::min(step, way.depth.channels - next);
    const int64_t out_row = s.in_channels * s.taps, next_kernel = s.groups * s.out_channels * out_row;
    const float* next_rows =
        weight + (way.backward ? (group * s.out_channels + next) * out_row + lane0 * s.taps
                               : (group * s.out_channels + lane0) * out_row + next * s.taps);
    Ahead ahead(next_depth > 0 ? next_rows : nullptr, way.backward ? next_depth : lanes, out_row, next_kernel,
                s.kernels, (way.backward ? lanes : next_depth) * s.taps,
                ceil_div(last - first, together) * (s.taps / taps_at_once));
    for (int64_t b = first; b < last; b += together) {
      const int64_t samples = std::min(together, last - b);
      for (int64_t tap0 = 0; tap0 < s.taps; tap0 += taps_at_once) {
        ahead.fetch();
        for (int64_t tap = tap0; tap < tap0 + taps_at_once; tap++) {
          const float* m = mix + b * mix_size + (s.mix_taps == 1 ? 0 : tap * s.kernels);
          const float* w = &weights[block.offset(tap, 0)];
          float* to = &mixed[(tap - tap0) * one];
          if (samples == 2)
            mix_rows<2, V>(w, one, s.kernels, m, mix_size, block.depth, to, taps_at_once * one);
          else
            mix_rows<1, V>(w, one, s.kernels, m, mix_size, block.depth, to, taps_at_once * one);
        }
        for (int64_t i = 0; i < samples; i++) {
          const float* from = packed +
                              (((b + i) * s.groups + group) * way.depth.blocks + d0 / way.depth.width) *
                                  way.from_pixels * way.depth.width +
                              in_block;
          float* to = &sums[(b + i - first) * way.to_pixels * width];
          for (int64_t pixels = 0; pixels < way.tiles.blocks; pixels++)
            for (int64_t tap = tap0; tap < tap0 + taps_at_once; tap++)
              for (const Tile& tile : way.tiles.at(pixels, tap)) {
                const auto run =
                    tile.to_gap ? kConvolvePair<V>[tile.count - 1] : kConvolveRun<V>[tile.count - 1];
                run({&mixed[(i * taps_at_once + tap - tap0) * one], from + tile.from * way.depth.width,
                     to + tile.to * width, way.tiles.from_step * way.depth.width, way.tiles.to_step * width,
                     tile.from_gap * way.depth.width, tile.to_gap * width, block.depth});
              }
        }
      }
    }
    d0 += block.depth;
  }
}

// finish(sample, group, lane block, sums[pixel][lane]) is called once for every finished block of sums.
template <typename Finish>
void convolve(const Shape& s, const Direction& way, const float* packed, const float* weight,
              const float* mix, const Finish& finish) {
  const int64_t per_sample = way.to_pixels * way.lanes.width, blocks = s.groups * way.lanes.blocks;
  const int64_t for_threads = ceil_div(s.batch * blocks, at::get_num_threads());
  const int64_t chunk =
      std::clamp<int64_t>(kSumsBlock / per_sample, 1, std::max<int64_t>(1, std::min(s.batch, for_threads)));
  const int64_t chunks = ceil_div(s.batch, chunk);
  with_vectors(way.lanes.vectors, [&](auto vectors) {
    at::parallel_for(0, blocks * chunks, 1, [&](int64_t begin, int64_t end) {
      Buffer sums(chunk * per_sample);
      for (int64_t i = begin; i < end; i++) {
        const int64_t block = i / chunks, first = i % chunks * chunk, last = std::min(s.batch, first + chunk);
        const int64_t group = block / way.lanes.blocks, lane_block = block % way.lanes.blocks;
        convolve_block<vectors>(s, way, packed, weight, mix, group, lane_block, first, last, sums.data());
        for (int64_t b = first; b < last; b++) finish(b, group, lane_block, &sums[(b - first) * per_sample]);
      }
    });
  });
}

// ---------------------------------------------------------------- kernel gradients

struct WeightGradients {
  float* weight;  // as the weight
  float* mix;     // (batch, mix taps, kernels)
  float*
      unscaled;  // (batch, output channels): sum over pixels of gradient times unscaled output without bias
};

// Depth of a task: small enough for the cache and for eight tasks, by shape alone, as it fixes the order of
// sums.
int64_t gradient_depth(const Shape& s, const Lanes& out, const Lanes& in) {
  const int64_t tasks = s.groups * out.blocks * in.blocks;
  const int64_t most = std::min<int64_t>(32, std::max<int64_t>(8, in.width * tasks / 8));
  return std::min(in.width, depth_step(s, out.width, most));
}

template <int V>
void gradient_block(const Shape& s, const Lanes& in, const Lanes& out, const Tiles& tiles, const float* x,
                    const float* g, const float* weight, const float* mix, const float* output_scale,
                    int64_t group, int64_t lane_block, int64_t c0, int64_t depth,
                    const WeightGradients& into) {
  constexpr int64_t width = V * kLanes;
  constexpr int64_t most_together = kRegisters / 8;
  const WeightBlock block{s.taps, s.kernels, depth, width};
  const int64_t outputs = out.in_block(lane_block), o0 = group * s.out_channels + lane_block * width;
  const int64_t all_outputs = s.groups * s.out_channels, mix_size = s.mix_taps * s.kernels;
  const int64_t together = std::clamp<int64_t>(64 * 1024 / (s.out_pixels() * width), 1, most_together);
  const int64_t rows_step = std::min<int64_t>(depth, std::max<int64_t>(8, 4096 / (together * width)));
  Buffer weights(block.size()), grad_weights(block.size()), gradient(most_together * rows_step * width);
  Buffer scale(most_together * width), scaled_mix(s.kernels * most_together * width),
      dot(s.kernels * most_together * width), unscaled(most_together * width);
  Buffer mix_lanes(s.batch * mix_size * kLanes);
  mix_lanes.zero();
  pack_by_output(s, weight, o0, outputs, c0, block, weights.data());
  grad_weights.zero();
  const int64_t next_c = c0 + depth, next_depth = std::min(depth, s.in_channels - next_c),
                out_row = s.in_channels * s.taps;
  Ahead ahead(next_depth > 0 ? weight + o0 * out_row + next_c * s.taps : nullptr, outputs, out_row,
              all_outputs * out_row, s.kernels, next_depth * s.taps, ceil_div(s.batch, together) * s.taps);
  for (int64_t b = 0; b < s.batch; b += together) {
    const int64_t samples = std::min(together, s.batch - b);
    for (int64_t i = 0; i < samples; i++)
      load_lanes(output_scale ? output_scale + (b + i) * all_outputs + o0 : nullptr, outputs, width, 1.f,
                 &scale[i * width]);
    unscaled.zero();
    for (int64_t tap = 0; tap < s.taps; tap++) {
      const float* m = mix + b * mix_size + (s.mix_taps == 1 ? 0 : tap * s.kernels);
      dot.zero();
      ahead.fetch();
      if (tap == 0 || s.mix_taps > 1)
        for (int64_t k = 0; k < s.kernels; k++)
          for (int64_t j = 0; j < V; j++)
            for (int64_t i = 0; i < samples; i++)
              (Vec(m[i * mix_size + k]) * Vec::loadu(&scale[i * width + j * kLanes]))
                  .store(&scaled_mix[((k * V + j) * most_together + i) * kLanes]);
      for (int64_t r0 = 0; r0 < depth; r0 += rows_step) {
        const int64_t rows = std::min(rows_step, depth - r0), parts = ceil_div(rows, max_rows(V));
        for (int64_t i = 0; i < samples; i++) {
          const int64_t sample = (b + i) * s.groups + group;
          const float* from =
              x + (sample * in.blocks + c0 / in.width) * s.in_pixels() * in.width + c0 % in.width + r0;
          const float* grad = g + (sample * out.blocks + lane_block) * s.out_pixels() * width;
          for (int64_t pixels = 0; pixels < tiles.blocks; pixels++)
            for (int64_t part = 0; part < parts; part++) {
              const int64_t r = rows * part / parts, n = rows * (part + 1) / parts - r;
              kGradient<V>[n - 1]({&tiles.at(pixels, tap), from + r, grad,
                                   &gradient[(i * rows_step + r) * width], in.width,
                                   tiles.from_step * in.width, pixels == 0});
            }
        }
        for (int64_t k = 0; k < s.kernels; k += 2)
          for (int64_t j = 0; j < V; j++) {
            const int64_t at = block.offset(tap, k) + r0 * width + j * kLanes,
                          next_mix = V * most_together * kLanes;
            ReduceArgs args{&gradient[j * kLanes],
                            &weights[at],
                            &scaled_mix[(k * V + j) * most_together * kLanes],
                            &grad_weights[at],
                            &dot[k * most_together * width + j * kLanes],
                            rows_step * width,
                            block.offset(0, 1),
                            next_mix,
                            width,
                            most_together * width,
                            rows,
                            width};
            reduce_samples<most_together>(args, samples, k + 1 < s.kernels);
          }
      }
      for (int64_t i = 0; i < samples; i++)
        for (int64_t k = 0; k < s.kernels; k++) {
          Vec sum(0.f);
          for (int64_t j = 0; j < width; j += kLanes) {
            const Vec d = Vec::loadu(&dot[(k * most_together + i) * width + j]);
            float* u = &unscaled[i * width + j];
            sum = at::vec::fmadd(d, Vec::loadu(&scale[i * width + j]), sum);
            at::vec::fmadd(d, Vec(m[i * mix_size + k]), Vec::loadu(u)).store(u);
          }
          float* total =
              &mix_lanes[((b + i) * mix_size + (s.mix_taps == 1 ? 0 : tap * s.kernels) + k) * kLanes];
          (Vec::loadu(total) + sum).store(total);
        }
    }
    for (int64_t i = 0; i < samples; i++)
      std::copy(&unscaled[i * width], &unscaled[i * width] + outputs,
                into.unscaled + (b + i) * all_outputs + o0);
  }
  for (int64_t i = 0; i < s.batch * mix_size; i++)
    into.mix[i] = add_lanes(Vec::loadu(&mix_lanes[i * kLanes]));
  unpack_by_output(s, grad_weights.data(), o0, outputs, c0, block, into.weight);
}

// total[i] = sum over parts, in order.
void sum_parts(const Buffer& parts, int64_t count, int64_t size, float* total) {
  std::fill(total, total + size, 0.f);
  for (int64_t part = 0; part < count; part++)
    for (int64_t i = 0; i < size; i++) total[i] += parts[part * size + i];
}

void weight_gradients(const Shape& s, const float* x, const float* g, const float* weight, const float* mix,
                      const float* output_scale, const WeightGradients& into) {
  const Lanes in(s.in_channels), out(s.out_channels);
  const Tiles tiles = make_tiles(s, false, kPixelBlock, false);
  const int64_t depth = gradient_depth(s, out, in), steps_in_block = ceil_div(in.width, depth);
  const int64_t depths = in.blocks * steps_in_block, blocks = s.groups * out.blocks;
  const int64_t mix_size = s.batch * s.mix_taps * s.kernels,
                unscaled_size = s.batch * s.groups * s.out_channels;
  Buffer mixes(blocks * depths * mix_size), unscaled(depths * unscaled_size);
  mixes.zero();
  unscaled.zero();
  with_vectors(out.vectors, [&](auto vectors) {
    at::parallel_for(0, blocks * depths, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t block = i / depths, part = i % depths;
        const int64_t start = part % steps_in_block * depth, c0 = part / steps_in_block * in.width + start;
        const int64_t here = std::min({depth, in.width - start, s.in_channels - c0});
        if (here <= 0) continue;
        gradient_block<vectors>(s, in, out, tiles, x, g, weight, mix, output_scale, block / out.blocks,
                                block % out.blocks, c0, here,
                                {into.weight, &mixes[i * mix_size], &unscaled[part * unscaled_size]});
      }
    });
  });
  sum_parts(mixes, blocks * depths, mix_size, into.mix);
  sum_parts(unscaled, depths, unscaled_size, into.unscaled);
}

// ---------------------------------------------------------------- operators

const float* data(const OptTensor& t) { return t ? t->const_data_ptr<float>() : nullptr; }
OptTensor contiguous(const OptTensor& t) { return t ? OptTensor(t->contiguous()) : t; }

Tensor forward(const Tensor& x_, const Tensor& weight_, const Tensor& mix_, const OptTensor& bias_,
               const OptTensor& input_scale_, const OptTensor& output_scale_, IntArrayRef stride,
               IntArrayRef padding, IntArrayRef dilation, int64_t groups) {
  const Tensor x = x_.contiguous(), weight = weight_.contiguous(), mix = mix_.contiguous();
  const OptTensor bias = contiguous(bias_), input_scale = contiguous(input_scale_),
                  output_scale = contiguous(output_scale_);
  const Shape s = shape_of(x, weight, mix, stride, padding, dilation, groups);
  const Direction way(s, false);
  Tensor y = at::empty({s.batch, groups * s.out_channels, s.out_h, s.out_w}, x.options());
  float* to = y.mutable_data_ptr<float>();
  const Buffer packed =
      pack_pixels(x.const_data_ptr<float>(), data(input_scale), s.batch, groups, way.depth, s.in_pixels());
  convolve(s, way, packed.data(), weight.const_data_ptr<float>(), mix.const_data_ptr<float>(),
           [&](int64_t b, int64_t group, int64_t block, float* sums) {
             const int64_t width = way.lanes.width, count = way.lanes.in_block(block);
             const int64_t channel = (b * groups + group) * s.out_channels + block * width;
             std::array<float, kMaxVectors * kLanes> shift, scale;
             load_lanes(bias ? data(bias) + channel : nullptr, count, width, 0.f, shift.data());
             load_lanes(output_scale ? data(output_scale) + channel : nullptr, count, width, 1.f,
                        scale.data());
             if (bias || output_scale)
               for (int64_t p = 0; p < way.to_pixels; p++)
                 for (int64_t j = 0; j < width; j += kLanes) {
                   float* v = sums + p * width + j;
                   ((Vec::loadu(v) + Vec::loadu(&shift[j])) * Vec::loadu(&scale[j])).store(v);
                 }
             transpose(sums, width, to + channel * way.to_pixels, way.to_pixels, way.to_pixels, count);
           });
  return y;
}

// Input gradient, and the input scale's: sum over pixels of x times the gradient of the scaled input.
void input_gradients(const Shape& s, const Tensor& x, const Tensor& weight, const Tensor& mix,
                     const Tensor& grad, const OptTensor& input_scale, const OptTensor& output_scale,
                     Tensor& grad_x, Tensor& grad_scale) {
  const Direction way(s, true);
  const Buffer packed = pack_pixels(grad.const_data_ptr<float>(), data(output_scale), s.batch, s.groups,
                                    way.depth, s.out_pixels());
  const float* values = x.const_data_ptr<float>();
  float* to = grad_x.mutable_data_ptr<float>();
  float* to_scale = grad_scale.mutable_data_ptr<float>();
  convolve(s, way, packed.data(), weight.const_data_ptr<float>(), mix.const_data_ptr<float>(),
           [&](int64_t b, int64_t group, int64_t block, float* sums) {
             const int64_t width = way.lanes.width, count = way.lanes.in_block(block), pixels = way.to_pixels;
             const int64_t channel = (b * s.groups + group) * s.in_channels + block * width;
             transpose(sums, width, to + channel * pixels, pixels, pixels, count);
             if (!input_scale) return;
             for (int64_t c = channel; c < channel + count; c++) {
               const float* v = values + c * pixels;
               float* d = to + c * pixels;
               const float scale = data(input_scale)[c];
               Vec sums_of_lanes(0.f);
               int64_t p = 0;
               for (; p + kLanes <= pixels; p += kLanes) {
                 const Vec g = Vec::loadu(d + p);
                 sums_of_lanes = at::vec::fmadd(g, Vec::loadu(v + p), sums_of_lanes);
                 (g * Vec(scale)).store(d + p);
               }
               float sum = add_lanes(sums_of_lanes);
               for (; p < pixels; p++) {
                 sum += v[p] * d[p];
                 d[p] *= scale;
               }
               to_scale[c] = sum;
             }
           });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& grad_, const Tensor& x_, const Tensor& weight_, const Tensor& mix_, const OptTensor& bias_,
    const OptTensor& input_scale_, const OptTensor& output_scale_, IntArrayRef stride, IntArrayRef padding,
    IntArrayRef dilation, int64_t groups, std::array<bool, 2> needs) {
  const Tensor grad = grad_.contiguous(), x = x_.contiguous(), weight = weight_.contiguous(),
               mix = mix_.contiguous();
  const OptTensor bias = contiguous(bias_), input_scale = contiguous(input_scale_),
                  output_scale = contiguous(output_scale_);
  const Shape s = shape_of(x, weight, mix, stride, padding, dilation, groups);
  // Results that are not wanted are empty.
  const auto like = [&](bool wanted, IntArrayRef sizes) {
    return at::empty(wanted ? sizes : IntArrayRef{0}, x.options());
  };
  Tensor grad_x = like(needs[0], x.sizes()),
         grad_input_scale = like(needs[0] && input_scale, {s.batch, x.size(1)});
  Tensor grad_weight = like(needs[1], weight.sizes()), grad_mix = like(needs[1], mix.sizes());
  Tensor grad_bias = like(false, {}), grad_output_scale = like(needs[1], {s.batch, weight.size(1)});
  if (needs[0]) input_gradients(s, x, weight, mix, grad, input_scale, output_scale, grad_x, grad_input_scale);
  if (needs[1]) {
    const Buffer packed_x = pack_pixels(x.const_data_ptr<float>(), data(input_scale), s.batch, groups,
                                        Lanes(s.in_channels), s.in_pixels());
    const Buffer packed_g = pack_pixels(grad.const_data_ptr<float>(), nullptr, s.batch, groups,
                                        Lanes(s.out_channels), s.out_pixels());
    weight_gradients(s, packed_x.data(), packed_g.data(), weight.const_data_ptr<float>(),
                     mix.const_data_ptr<float>(), data(output_scale),
                     {grad_weight.mutable_data_ptr<float>(), grad_mix.mutable_data_ptr<float>(),
                      grad_output_scale.mutable_data_ptr<float>()});
    if (bias) {
      const Tensor sums = at::sum(grad, {2, 3});
      grad_bias = output_scale ? at::mul(sums, *output_scale) : sums;
      if (output_scale) grad_output_scale.add_(at::mul(sums, *bias));
    }
    if (!output_scale) grad_output_scale = like(false, {});
  }
  return {grad_x, grad_weight, grad_mix, grad_bias, grad_input_scale, grad_output_scale};
}

// ---------------------------------------------------------------- differentiation

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct MixedConv2d : torch::autograd::Function<MixedConv2d> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight, const Tensor& mix,
                        const OptTensor& bias, const OptTensor& input_scale, const OptTensor& output_scale,
                        IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation, int64_t groups) {
    const auto wanted = [](const OptTensor& t) { return t && t->requires_grad(); };
    ctx->save_for_backward({x, weight, mix, bias.value_or(Tensor()), input_scale.value_or(Tensor()),
                            output_scale.value_or(Tensor())});
    ctx->saved_data["window"] =
        std::vector<int64_t>{stride[0], stride[1], padding[0], padding[1], dilation[0], dilation[1], groups};
    ctx->saved_data["for_input"] = wanted(x) || wanted(input_scale);
    ctx->saved_data["for_weight"] = wanted(weight) || wanted(mix) || wanted(bias) || wanted(output_scale);
    at::AutoDispatchBelowADInplaceOrView below;
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("fedfmd::mixed_conv2d", "")
                               .typed<decltype(::forward)>();
    return op.call(x, weight, mix, bias, input_scale, output_scale, stride, padding, dilation, groups);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(),
                "the compiled dynamic convolution cannot be differentiated twice; use formulation='plain'");
    const auto saved = ctx->get_saved_variables();
    const auto window = ctx->saved_data["window"].toIntVector();
    const auto given = [&](size_t i) { return saved[i].defined() ? OptTensor(saved[i]) : std::nullopt; };
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("fedfmd::mixed_conv2d_backward", "")
                               .typed<decltype(::backward)>();
    const auto [x, weight, mix, bias, input_scale, output_scale] =
        op.call(grads[0], saved[0], saved[1], saved[2], given(3), given(4), given(5),
                IntArrayRef(&window[0], 2), IntArrayRef(&window[2], 2), IntArrayRef(&window[4], 2), window[6],
                {ctx->saved_data["for_input"].toBool(), ctx->saved_data["for_weight"].toBool()});
    const auto known = [](const Tensor& t, bool wanted) { return wanted ? t : Tensor(); };
    const bool for_input = ctx->saved_data["for_input"].toBool(),
               for_weight = ctx->saved_data["for_weight"].toBool();
    return {known(x, for_input),
            known(weight, for_weight),
            known(mix, for_weight),
            known(bias, for_weight && saved[3].defined()),
            known(input_scale, for_input && saved[4].defined()),
            known(output_scale, for_weight && saved[5].defined()),
            Tensor(),
            Tensor(),
            Tensor(),
            Tensor()};
  }
};

Tensor differentiable(const Tensor& x, const Tensor& weight, const Tensor& mix, const OptTensor& bias,
                      const OptTensor& input_scale, const OptTensor& output_scale, IntArrayRef stride,
                      IntArrayRef padding, IntArrayRef dilation, int64_t groups) {
  return MixedConv2d::apply(x, weight, mix, bias, input_scale, output_scale, stride, padding, dilation,
                            groups);
}

}  // namespace

TORCH_LIBRARY(fedfmd, m) {
  m.def(
      "mixed_conv2d(Tensor x, Tensor weight, Tensor mix, Tensor? bias, Tensor? input_scale, Tensor? "
      "output_scale, "
      "int[2] stride, int[2] padding, int[2] dilation, int groups) -> Tensor");
  m.def(
      "mixed_conv2d_backward(Tensor grad, Tensor x, Tensor weight, Tensor mix, Tensor? bias, Tensor? "
      "input_scale, "
      "Tensor? output_scale, int[2] stride, int[2] padding, int[2] dilation, int groups, bool[2] needs) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(fedfmd, CPU, m) {
  m.impl("mixed_conv2d", forward);
  m.impl("mixed_conv2d_backward", backward);
}
TORCH_LIBRARY_IMPL(fedfmd, Autograd, m) { m.impl("mixed_conv2d", differentiable); }
