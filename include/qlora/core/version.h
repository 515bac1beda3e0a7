// The program's version.
#pragma once

namespace qlora {

inline constexpr char kVersion[] = "0.1.0";

}  // namespace qlora
