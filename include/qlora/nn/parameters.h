// The trainable parameters of a run: one flat buffer of values and one of gradients, in named segments.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include <ATen/core/Tensor.h>

namespace qlora {

struct ParameterInfo {
  std::string name;
  std::vector<std::int64_t> shape;
  bool decays;              // weight decay applies (biases and norms are spared)
  std::int64_t offset = 0;  // in elements of the flat buffers
  std::int64_t size() const;
};

// Master values and gradients are float32 (float64 where the compute type is float64, in tests). Where the compute type
// is narrower, compute() is a copy that refresh_compute() makes after each optimizer step.
class ParameterSet {
 public:
  using Id = int;

  // Parameters lie in the order in which they are added, without gaps: neighbours can be viewed as one matrix.
  Id add(std::string name, std::vector<std::int64_t> shape, bool decays);

  // Allocates zeroed buffers. No add() after it.
  void allocate(at::Device device, at::ScalarType compute_dtype);

  std::optional<Id> find(const std::string& name) const;

  at::Tensor value(Id id) const { return view(values_, id, id); }
  at::Tensor grad(Id id) const { return view(grads_, id, id); }
  at::Tensor compute(Id id) const { return view(compute_, id, id); }
  // Parameters first..last, which share all dimensions but the first, stacked along it.
  at::Tensor stacked_grad(Id first, Id last) const { return view(grads_, first, last); }
  at::Tensor stacked_compute(Id first, Id last) const { return view(compute_, first, last); }

  void refresh_compute();
  std::int64_t bytes() const;  // values, gradients, and the copy that is computed with
  void zero_grad();

  const at::Tensor& values() const { return values_; }  // flat [n]
  const at::Tensor& grads() const { return grads_; }    // flat [n]
  const std::vector<ParameterInfo>& infos() const { return infos_; }
  std::int64_t size() const { return size_; }
  bool empty() const { return infos_.empty(); }

 private:
  at::Tensor view(const at::Tensor& flat, Id first, Id last) const;

  std::vector<ParameterInfo> infos_;
  std::unordered_map<std::string, Id> ids_;
  std::int64_t size_ = 0;
  at::Tensor values_, grads_, compute_;
};

}  // namespace qlora
