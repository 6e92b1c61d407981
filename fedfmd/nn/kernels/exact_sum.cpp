// The passes over memory that the exact sum of fedfmd.aggregation makes: one over each update, one over each sum that
// arrives.
//
// total += round((end - start) * factor) is the first.
//
// Halves are rounded to even, as torch.round does, so the result has the same bits as the PyTorch operations.
// Elements whose update is not below the limit in size, NaN among them, add nothing and are reported. The same call
// with -factor then takes back what was added, to the bit: sums of multiples of one quantum are exact.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <atomic>
#include <cmath>
#include <optional>

namespace {

constexpr int64_t GRAIN = 1 << 16;

// Returns whether all updates were below the limit. No branches: it is as fast as memory only when vectorised.
template <bool HAS_START>
bool add_range(double* __restrict sums, const float* __restrict ends, const float* __restrict starts, int64_t count,
               double factor, double limit) {
  int outside = 0;
  for (int64_t i = 0; i < count; ++i) {
    const float update = HAS_START ? ends[i] - starts[i] : ends[i];
    const bool inside = std::fabs(update) < limit;
    const double quanta = std::nearbyint(update * factor);
    sums[i] += inside ? quanta : 0.0;
    outside |= !inside;
  }
  return !outside;
}

const float* floats_like(const at::Tensor& total, const at::Tensor& tensor) {
  TORCH_CHECK(tensor.scalar_type() == at::kFloat && tensor.is_contiguous(), "not contiguous floats");
  TORCH_CHECK(tensor.numel() == total.numel(), "lengths differ");
  return tensor.const_data_ptr<float>();
}

bool add_rounded(const at::Tensor& total, const at::Tensor& end, const std::optional<at::Tensor>& start,
                 double factor, double limit) {
  TORCH_CHECK(total.scalar_type() == at::kDouble && total.is_contiguous(), "not contiguous doubles");
  double* sums = total.mutable_data_ptr<double>();
  const float* ends = floats_like(total, end);
  const float* starts = start ? floats_like(total, *start) : nullptr;
  std::atomic<bool> inside{true};
  at::parallel_for(0, total.numel(), GRAIN, [&](int64_t first, int64_t last) {
    const int64_t count = last - first;
    const bool all = starts ? add_range<true>(sums + first, ends + first, starts + first, count, factor, limit)
                            : add_range<false>(sums + first, ends + first, nullptr, count, factor, limit);
    if (!all) inside = false;
  });
  return inside;
}

// Returns whether all are whole numbers, at most the limit in size; NaN is neither. No branches here, either.
bool whole_range(const double* __restrict quanta, int64_t count, double limit) {
  int64_t bad = 0;
  for (int64_t i = 0; i < count; ++i) {
    const bool inside = std::fabs(quanta[i]) <= limit;
    const bool whole = std::nearbyint(quanta[i]) == quanta[i];
    bad |= !(inside & whole);
  }
  return !bad;
}

bool whole_within(const at::Tensor& sum, double limit) {
  TORCH_CHECK(sum.scalar_type() == at::kDouble && sum.is_contiguous(), "not contiguous doubles");
  const double* quanta = sum.const_data_ptr<double>();
  std::atomic<bool> good{true};
  at::parallel_for(0, sum.numel(), GRAIN, [&](int64_t first, int64_t last) {
    if (!whole_range(quanta + first, last - first, limit)) good = false;
  });
  return good;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(fedfmd, m) {
  m.def("add_rounded_(Tensor(a!) total, Tensor end, Tensor? start, float factor, float limit) -> bool");
  m.def("whole_within(Tensor sum, float limit) -> bool");
}
TORCH_LIBRARY_IMPL(fedfmd, CPU, m) {
  m.impl("add_rounded_", add_rounded);
  m.impl("whole_within", whole_within);
}
