// A tensor in host memory without torch: element type, shape and raw bytes, for the rooms that move bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace qlora {

enum class ElementType : std::uint8_t {
  kF64,
  kF32,
  kF16,
  kBF16,
  kI64,
  kI32,
  kI16,
  kI8,
  kU64,
  kU32,
  kU16,
  kU8,
  kBool,
  kF8E4M3,
  kF8E5M2,
};

// Bytes of one element.
std::size_t element_size(ElementType type);
// The name safetensors uses ("BF16").
std::string_view element_name(ElementType type);
std::optional<ElementType> element_type(std::string_view name);

using Shape = std::vector<std::int64_t>;

// "[2, 3]"
std::string shape_text(const Shape& shape);
// The product of the sizes; nothing where a size is negative or the product (or its bytes) leaves int64.
std::optional<std::int64_t> element_count(const Shape& shape, std::size_t bytes_each = 1);

// A view: row-major, contiguous, little-endian, possibly unaligned (a safetensors file promises no alignment).
struct HostTensor {
  ElementType type = ElementType::kF32;
  Shape shape;
  std::span<const std::byte> bytes;

  std::int64_t count() const { return static_cast<std::int64_t>(bytes.size() / element_size(type)); }
};

// The values as fp32 (F32, F16, BF16, F64; else DataError). Exact but for F64.
std::vector<float> to_float32(const HostTensor& tensor);

// The flat index of the first NaN or Inf; nothing where all are finite or the type is an integer.
std::optional<std::int64_t> first_not_finite(const HostTensor& tensor);

template <typename T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span<const T>(values));
}

}  // namespace qlora
