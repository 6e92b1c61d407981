// Vectors of floats, aligned memory, and what of either fits where.
#pragma once

#include <ATen/cpu/vec/vec.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>

namespace fedfmd {

using Vec = at::vec::Vectorized<float>;

constexpr int kLanes = Vec::size();
#if defined(CPU_CAPABILITY_AVX512) || defined(__aarch64__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif
constexpr int kMaxVectors = kRegisters / 8;  // lane vectors in a register tile

// Rows of a register tile with `vectors` lane vectors: the sums, one vector of each lane, one broadcast.
constexpr int max_rows(int vectors) { return std::min((kRegisters - vectors - 1) / vectors, 14); }

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

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

inline float add_lanes(const Vec& v) {
  float lanes[kLanes], sum = 0;
  v.store(lanes);
  for (const float lane : lanes) sum += lane;
  return sum;
}

}  // namespace fedfmd
