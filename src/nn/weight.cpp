#include "qlora/nn/weight.h"

namespace qlora {

Weight Weight::frozen(WeightStore& store, WeightStore::Group group) {
  Weight weight;
  weight.store_ = &store;
  weight.group_ = group;
  return weight;
}

Weight Weight::trained(ParameterSet& parameters, ParameterSet::Id first, ParameterSet::Id last) {
  Weight weight;
  weight.parameters_ = &parameters;
  weight.first_ = first;
  weight.last_ = last;
  return weight;
}

at::Tensor Weight::get() const {
  return parameters_ != nullptr ? parameters_->stacked_compute(first_, last_) : store_->materialize(group_);
}

bool Weight::in_fp8() const {
  return store_ != nullptr && store_->in_fp8(group_);
}

Fp8Weight Weight::fp8(bool transposed) const {
  return store_->materialize_fp8(group_, transposed);
}

bool Weight::multiply(const at::Tensor& x, const at::Tensor& addend, const at::Tensor& bias,
                      const at::Tensor& out) const {
  return store_ != nullptr && store_->multiply(group_, x, addend, bias, out);
}

at::Tensor Weight::grad() const {
  return parameters_->stacked_grad(first_, last_);
}

}  // namespace qlora
