// The floating-point types that kernels read and write.
#pragma once

namespace qlora::kernels {

enum class FloatType { kFloat32, kFloat16, kBFloat16 };

}  // namespace qlora::kernels
