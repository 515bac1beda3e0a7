// Event files against the published check value of CRC-32C and a record put together by hand.
#include "qlora/formats/tensorboard.h"

#include <fstream>
#include <iterator>

#include <gtest/gtest.h>

#include "qlora/core/error.h"

#include "support/temporary_folder.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;

TEST(TensorBoard, Crc32c) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283U);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aaU);
  EXPECT_EQ(crc32c(""), 0U);
}

TEST(TensorBoard, AnEventIsALengthAMessageAndTwoChecks) {
  const TemporaryFolder folder;
  TensorBoardFile file(folder.path());
  const auto begin = fs::file_size(file.path());
  file.write(300, {{"a", 1.0}}, 2.0);
  std::ifstream in(file.path(), std::ios::binary);
  const std::string bytes = std::string(std::istreambuf_iterator<char>(in), {}).substr(begin);
  const std::string message(
      "\x09\0\0\0\0\0\0\0\x40\x10\xac\x02\x2a\x0a\x0a\x08\x0a\x01"
      "a\x15\0\0\x80\x3f",
      24);
  EXPECT_EQ(bytes.substr(0, 8), std::string("\x18\0\0\0\0\0\0\0", 8));
  EXPECT_EQ(bytes.substr(12, 24), message);
  EXPECT_EQ(bytes.size(), 12U + 24U + 4U);
}

TEST(TensorBoard, SaysWhereItCannotWrite) {
  try {
    TensorBoardFile("/proc/no-such-folder");
    FAIL();
  } catch (const RuntimeFailure& failure) {
    EXPECT_NE(std::string(failure.what()).find("/proc/no-such-folder/events.out.tfevents."), std::string::npos);
  }
}

}  // namespace
}  // namespace qlora
