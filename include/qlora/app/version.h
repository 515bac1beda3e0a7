// What the program is and what it runs on.
#pragma once

#include <string>

namespace qlora {

// One line each: qlora, libtorch, CUDA, cuDNN, GPU; "none" where there is none.
std::string version_text();

}  // namespace qlora
