// The forward pass, and the input gradient, which is the same with the tiles reversed.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "geometry.h"
#include "layouts.h"
#include "registers.h"
#include "vectors.h"

namespace fedfmd {

constexpr int64_t kSumsBlock = 512 * 1024;  // floats of unfinished sums a task keeps
constexpr int64_t kTogether = 4;            // samples whose kernels are mixed in one reading of W

// Arguments that every pass shares: W as PyTorch stores it, mix (batch, mix taps, kernels).
struct Mixture {
  const float *weight, *mix;
};

// From `depth` channels at `from_pixels` to `lanes` channels at `to_pixels`.
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

  // Samples whose kernels are mixed in one reading of W: some, where the maps are small.
  int64_t together() const { return tiles.blocks == 1 ? kTogether : 1; }
  // Depths of W that are taken at once.
  int64_t depth_step(const Shape& s) const { return fedfmd::depth_step(s, lanes.width, 64); }
  // Whether a task reads each sample once, and is the only one to read it.
  bool once(const Shape& s) const { return lanes.blocks == 1 && depth.channels <= depth_step(s); }
};

// Sums of one block of lanes in one group, for some samples: [sample][pixel][lane].
//
// W is taken a few depths at a time.  Small maps mix one tap, for several samples, and use it before the next, so that
// the mixed blocks stay close to the processor; large maps mix all taps first, then stay on one block of pixels for all
// of them.
template <int V>
class OutputBlock {
 public:
  OutputBlock(const Shape& s, const Direction& way, const Mixture& mixture)
      : s_(s),
        way_(way),
        mixture_(mixture),
        together_(way.together()),
        taps_at_once_(way.tiles.blocks == 1 ? 1 : s.taps),
        step_(way.depth_step(s)),
        weights_(s.kernels * s.taps * step_ * kWidth),
        mixed_(together_ * taps_at_once_ * step_ * kWidth) {}

  // `packed` begins with the group's part of the first sample; the next sample's is `next_sample` floats on.
  void run(int64_t group, int64_t lane_block, int64_t first, int64_t last, const float* packed,
           int64_t next_sample, float* sums) {
    std::fill_n(sums, (last - first) * way_.to_pixels * kWidth, 0.f);
    for (int64_t depth = 0; depth < way_.depth.channels; depth += block_.depth) {
      Ahead ahead =
          load(group, lane_block, depth, ceil_div(last - first, together_) * s_.taps / taps_at_once_);
      for (int64_t b = first; b < last; b += together_) {
        const int64_t samples = std::min(together_, last - b);
        for (int64_t tap = 0; tap < s_.taps; tap += taps_at_once_) {
          ahead.fetch();
          mix(b, samples, tap);
          for (int64_t i = 0; i < samples; i++) {
            const int64_t sample = b + i - first;
            add(depth, i, tap, packed + sample * next_sample, sums + sample * way_.to_pixels * kWidth);
          }
        }
      }
    }
  }

 private:
  static constexpr int64_t kWidth = V * kLanes;

  // Copies the block of W from `depth` on, unless it is the one that is here already; returns what fetches the one
  // after it in `turns` turns.
  Ahead load(int64_t group, int64_t lane_block, int64_t depth, int64_t turns) {
    const int64_t left = way_.depth.channels - depth, lanes = way_.lanes.in_block(lane_block);
    block_ = {s_.taps, s_.kernels, std::min({step_, way_.depth.width - depth % way_.depth.width, left}),
              kWidth};
    const int64_t next = depth + block_.depth, next_depth = std::min(step_, left - block_.depth);
    const int64_t lane = lane_block * kWidth, output = group * s_.out_channels;
    const std::array wanted{group, lane_block, depth};
    const bool here = std::exchange(loaded_, wanted) == wanted;
    if (way_.backward) {
      if (!here) pack_by_input(s_, mixture_.weight, lane, lanes, output + depth, block_, weights_.data());
      return {s_, mixture_.weight, output + next, next_depth, lane, lanes, turns};
    }
    if (!here) pack_by_output(s_, mixture_.weight, output + lane, lanes, depth, block_, weights_.data());
    return {s_, mixture_.weight, output + lane, lanes, next, next_depth, turns};
  }

  void mix(int64_t b, int64_t samples, int64_t first_tap) {
    const int64_t next_mix = s_.mix_taps * s_.kernels, size = block_.depth * kWidth;
    for (int64_t i = 0; i < taps_at_once_; i++) {
      const MixArgs args{&weights_[block_.offset(first_tap + i, 0, 0)],
                         s_.kernels,
                         mixture_.mix + b * next_mix + s_.mix_offset(first_tap + i),
                         next_mix,
                         block_.depth,
                         block_.next_depth(),
                         &mixed_[i * size],
                         taps_at_once_ * size};
      mix_samples<kTogether, V>(args, samples);
    }
  }

  // Adds the mixed taps of a sample, the i-th of those mixed together, to its sums.
  void add(int64_t depth, int64_t i, int64_t first_tap, const float* packed, float* sums) const {
    const int64_t block = depth / way_.depth.width;
    const float* from = packed + block * way_.from_pixels * way_.depth.width + depth % way_.depth.width;
    const float* kernels = &mixed_[i * taps_at_once_ * block_.depth * kWidth];
    const int64_t next_from = way_.depth.width;
    for (int64_t pixels = 0; pixels < way_.tiles.blocks; pixels++)
      for (int64_t t = 0; t < taps_at_once_; t++)
        for (const Tile& tile : way_.tiles.at(pixels, first_tap + t)) {
          const auto kernel =
              tile.to_gap ? kConvolvePair<V>[tile.count - 1] : kConvolveRun<V>[tile.count - 1];
          kernel({kernels + t * block_.depth * kWidth, from + tile.from * next_from, sums + tile.to * kWidth,
                  way_.tiles.from_step * next_from, way_.tiles.to_step * kWidth, tile.from_gap * next_from,
                  tile.to_gap * kWidth, block_.depth});
        }
  }

  const Shape& s_;
  const Direction& way_;
  Mixture mixture_;
  int64_t together_, taps_at_once_, step_;
  WeightBlock block_{};
  std::array<int64_t, 3> loaded_{-1, -1, -1};
  Buffer weights_, mixed_;
};

// Samples of a task, so that the threads get as many of them, and the unfinished sums stay few.
inline int64_t samples_at_once(int64_t batch, int64_t per_sample, int64_t blocks) {
  const int64_t least = ceil_div(batch * per_sample, kSumsBlock), threads = at::get_num_threads();
  const int64_t even = threads / std::gcd(blocks, threads);  // of a multiple of it, every thread gets as many
  return std::max<int64_t>(1, ceil_div(batch, std::max(even, ceil_div(least, even) * even)));
}

// finish(sample, group, lane block, sums[pixel][lane]) is called once for every finished block of sums.
//
// Where a task reads each sample once and alone, it packs the sample itself, so that this and the sums stay in
// its cache.
template <typename Finish>
void convolve(const Shape& s, const Direction& way, const Mixture& mixture, const Activations& from,
              const Finish& finish) {
  const int64_t per_sample = way.to_pixels * way.lanes.width, blocks = s.groups * way.lanes.blocks;
  const int64_t chunk = samples_at_once(s.batch, per_sample, blocks), chunks = ceil_div(s.batch, chunk);
  const bool once = way.once(s);
  const int64_t piece = once ? std::min(chunk, way.together()) : chunk, size = from.group_size();
  const Buffer all = once ? Buffer(0) : from.packed();
  with_vectors(way.lanes.vectors, [&](auto vectors) {
    at::parallel_for(0, blocks * chunks, 1, [&](int64_t begin, int64_t end) {
      OutputBlock<vectors> output(s, way, mixture);
      Buffer own(once ? piece * size : 0), sums(piece * per_sample);
      for (int64_t i = begin; i < end; i++) {
        const int64_t group = i / chunks / way.lanes.blocks, lane_block = i / chunks % way.lanes.blocks;
        const int64_t stop = std::min(s.batch, (i % chunks + 1) * chunk);
        for (int64_t first = i % chunks * chunk; first < stop; first += piece) {
          const int64_t last = std::min(stop, first + piece);
          if (once) from.pack(group, first, last, own.data());
          const float* packed = once ? own.data() : &all[(first * s.groups + group) * size];
          output.run(group, lane_block, first, last, packed, once ? size : s.groups * size, sums.data());
          for (int64_t b = first; b < last; b++)
            finish(b, group, lane_block, &sums[(b - first) * per_sample]);
        }
      }
    });
  });
}

}  // namespace fedfmd
