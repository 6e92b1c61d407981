// total += round(update * factor), the one pass over an update that the exact sum of fedfmd.aggregation makes.
//
// Halves are rounded to even, as torch.round does, so the result has the same bits as the PyTorch operations.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <cmath>

namespace {

constexpr int64_t GRAIN = 1 << 16;

void add_rounded(const at::Tensor& total, const at::Tensor& update, double factor) {
  TORCH_CHECK(total.scalar_type() == at::kDouble && update.scalar_type() == at::kFloat, "wrong dtype");
  TORCH_CHECK(total.is_contiguous() && update.is_contiguous(), "not contiguous");
  TORCH_CHECK(total.numel() == update.numel(), "lengths differ");
  double* sums = total.mutable_data_ptr<double>();
  const float* values = update.const_data_ptr<float>();
  at::parallel_for(0, total.numel(), GRAIN, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) sums[i] += std::nearbyint(values[i] * factor);
  });
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(fedfmd, m) {
  m.def("add_rounded_(Tensor(a!) total, Tensor update, float factor) -> ()");
}
TORCH_LIBRARY_IMPL(fedfmd, CPU, m) { m.impl("add_rounded_", add_rounded); }
