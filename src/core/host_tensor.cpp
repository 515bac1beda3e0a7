#include "qlora/core/host_tensor.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "qlora/core/error.h"
#include "qlora/core/float16.h"
#include "qlora/core/parallel.h"

namespace qlora {
namespace {

struct TypeFacts {
  std::string_view name;
  std::size_t size;
};

constexpr std::array<TypeFacts, 15> kTypes = {{{"F64", 8},
                                               {"F32", 4},
                                               {"F16", 2},
                                               {"BF16", 2},
                                               {"I64", 8},
                                               {"I32", 4},
                                               {"I16", 2},
                                               {"I8", 1},
                                               {"U64", 8},
                                               {"U32", 4},
                                               {"U16", 2},
                                               {"U8", 1},
                                               {"BOOL", 1},
                                               {"F8_E4M3", 1},
                                               {"F8_E5M2", 1}}};

template <typename T>
T load(const std::byte* bytes, std::int64_t index) {
  T value;
  std::memcpy(&value, bytes + index * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return value;
}

// Bits of the exponent all set means NaN or Inf, in every IEEE format.
template <typename T>
std::int64_t find_not_finite(const HostTensor& tensor, T exponent) {
  const std::int64_t count = tensor.count();
  const std::byte* bytes = tensor.bytes.data();
  constexpr std::int64_t kStride = 4096;
  for (std::int64_t begin = 0; begin < count; begin += kStride) {
    const std::int64_t end = std::min(count, begin + kStride);
    bool bad = false;
    for (std::int64_t i = begin; i < end; ++i) bad |= (load<T>(bytes, i) & exponent) == exponent;
    if (!bad) continue;
    for (std::int64_t i = begin; i < end; ++i) {
      if ((load<T>(bytes, i) & exponent) == exponent) return i;
    }
  }
  return -1;
}

}  // namespace

std::size_t element_size(ElementType type) {
  return kTypes[static_cast<std::size_t>(type)].size;
}

std::string_view element_name(ElementType type) {
  return kTypes[static_cast<std::size_t>(type)].name;
}

std::optional<ElementType> element_type(std::string_view name) {
  for (std::size_t i = 0; i < kTypes.size(); ++i) {
    if (kTypes[i].name == name) return static_cast<ElementType>(i);
  }
  return std::nullopt;
}

std::string shape_text(const Shape& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

std::optional<std::int64_t> element_count(const Shape& shape, std::size_t bytes_each) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) {
    if (size < 0 || __builtin_mul_overflow(count, size, &count)) return std::nullopt;
  }
  std::int64_t bytes = 0;
  if (__builtin_mul_overflow(count, static_cast<std::int64_t>(bytes_each), &bytes)) return std::nullopt;
  return count;
}

std::vector<float> to_float32(const HostTensor& tensor) {
  const std::int64_t count = tensor.count();
  const std::byte* bytes = tensor.bytes.data();
  std::vector<float> values(static_cast<std::size_t>(count));
  const auto convert = [&](auto value_at) {
    for (std::int64_t i = 0; i < count; ++i) values[static_cast<std::size_t>(i)] = value_at(i);
  };
  switch (tensor.type) {
    case ElementType::kF32:
      convert([&](std::int64_t i) { return load<float>(bytes, i); });
      break;
    case ElementType::kF64:
      convert([&](std::int64_t i) { return static_cast<float>(load<double>(bytes, i)); });
      break;
    case ElementType::kBF16:
      convert([&](std::int64_t i) { return bf16_to_float(load<std::uint16_t>(bytes, i)); });
      break;
    case ElementType::kF16:
      convert([&](std::int64_t i) { return fp16_to_float(load<std::uint16_t>(bytes, i)); });
      break;
    default:
      throw DataError(fmt::format("a tensor of type {} cannot be read as floating point", element_name(tensor.type)));
  }
  return values;
}

std::optional<std::int64_t> first_not_finite(const HostTensor& tensor) {
  std::int64_t index = -1;
  switch (tensor.type) {
    case ElementType::kF32:
      index = find_not_finite<std::uint32_t>(tensor, 0x7f800000U);
      break;
    case ElementType::kF64:
      index = find_not_finite<std::uint64_t>(tensor, 0x7ff0000000000000U);
      break;
    case ElementType::kBF16:
      index = find_not_finite<std::uint16_t>(tensor, 0x7f80U);
      break;
    case ElementType::kF16:
      index = find_not_finite<std::uint16_t>(tensor, 0x7c00U);
      break;
    default:
      break;
  }
  if (index < 0) return std::nullopt;
  return index;
}

}  // namespace qlora
