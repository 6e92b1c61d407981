// What kernels read and write of tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

namespace fedfmd {

using OptTensor = std::optional<at::Tensor>;

inline const float* values(const at::Tensor& t) { return t.const_data_ptr<float>(); }
inline const float* values(const OptTensor& t) { return t ? t->const_data_ptr<float>() : nullptr; }
inline float* changed(at::Tensor& t) { return t.mutable_data_ptr<float>(); }

// What is read element by element stands so in memory.
inline OptTensor contiguous(const OptTensor& t) { return t ? OptTensor(t->contiguous()) : t; }
inline std::vector<at::Tensor> contiguous(at::TensorList all) {
  std::vector<at::Tensor> result;
  for (const at::Tensor& t : all) result.push_back(t.contiguous());
  return result;
}

}  // namespace fedfmd
