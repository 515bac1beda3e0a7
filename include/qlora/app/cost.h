// What commands cost, known without the weights.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "qlora/app/base_model.h"
#include "qlora/core/json.h"
#include "qlora/quant/weight_store.h"

namespace qlora {

// A store that says what a base held so takes; nothing can be put in it.
std::shared_ptr<WeightStore> planned_store(const BaseSettings& settings);

// Elements of the weights that a store is yet to be filled with.
std::int64_t missing_elements(const WeightStore& store);

// Multiplications and additions a second of one product, measured now; none of a device that this machine has not.
std::optional<double> measured_speed(at::Device device, at::ScalarType dtype);

// {kind: bytes, "total"} as lines of a plan, in GiB.
std::string bytes_text(const Json& bytes);

// A plan's line of the time; `seconds` null: not known.
std::string time_text(const Json& seconds);

}  // namespace qlora
