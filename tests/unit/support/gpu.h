// For tests that need a GPU: they are skipped aloud where there is none, and fail there under QLORA_REQUIRE_GPU=1.
#pragma once

#include <cstdlib>
#include <string_view>

#include <ATen/Context.h>
#include <gtest/gtest.h>

namespace qlora {

inline bool has_gpu() {
  return at::hasCUDA() && at::detail::getCUDAHooks().deviceCount() > 0;
}

class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (has_gpu()) return;
    const char* required = std::getenv("QLORA_REQUIRE_GPU");
    if (required != nullptr && std::string_view(required) == "1") {
      FAIL() << "no GPU that this build can use, and QLORA_REQUIRE_GPU=1";
    }
    GTEST_SKIP() << "no GPU that this build can use";
  }
};

}  // namespace qlora
