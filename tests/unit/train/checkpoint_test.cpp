// The protocol of checkpoints: whole or not at all, damage is found, and what is kept.
#include "qlora/train/checkpoint.h"

#include <set>

#include <ATen/ops/arange.h>
#include <gtest/gtest.h>

#include "qlora/core/error.h"

#include "train/fixtures.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;

CheckpointState state_of(std::int64_t step) {
  const at::Tensor values = at::arange(40, at::kFloat).mul(0.1).add(static_cast<double>(step));
  return {
      Json{{"step", step}, {"loss_sum", 0.1}},
      {values, {{"exp_avg", values.mul(2)}, {"exp_avg_sq", values.mul(3)}, {"exp_avg_codes", values.to(at::kByte)}}}};
}

fs::path save(const fs::path& output, std::int64_t step) {
  return save_checkpoint(output, step, state_of(step), [&](const fs::path& folder) {
    write_bytes(folder / "adapter_model.safetensors", "weights of step " + std::to_string(step));
    fs::create_directory(folder / "more");
    write_bytes(folder / "more/file", "x");
  });
}

std::set<std::string> names(const fs::path& folder) {
  std::set<std::string> found;
  for (const auto& entry : fs::directory_iterator(folder)) found.insert(entry.path().filename().string());
  return found;
}

TEST(Checkpoint, ComesBackBitByBit) {
  const TemporaryFolder folder;
  const fs::path path = save(folder.path(), 7);
  EXPECT_EQ(path.filename(), "checkpoint-7");
  EXPECT_EQ(checkpoint_problem(path), std::nullopt);
  const CheckpointState state = load_checkpoint(path);
  const CheckpointState expected = state_of(7);
  EXPECT_EQ(state.run, expected.run);
  EXPECT_TRUE(state.optimizer.values.equal(expected.optimizer.values));
  ASSERT_EQ(state.optimizer.moments.size(), expected.optimizer.moments.size());
  for (const auto& [name, moments] : expected.optimizer.moments) {
    EXPECT_TRUE(state.optimizer.moments.at(name).equal(moments)) << name;
  }
  EXPECT_EQ(names(folder.path()), std::set<std::string>{"checkpoint-7"});
}

// Each damage to each file of a checkpoint is found, named, and passed over in favour of the older one.
TEST(Checkpoint, EveryDamageToEveryFileIsFound) {
  const TemporaryFolder folder;
  const fs::path older = save(folder.path(), 3);
  const TemporaryFolder aside;
  const fs::path sound = save(aside.path(), 5);
  for (const char* name :
       {"adapter_model.safetensors", "more/file", "optimizer.safetensors", "training_state.json", "manifest.json"}) {
    for (const std::string damage : {"flip", "truncate", "empty", "delete", "swap"}) {
      const fs::path newer = folder.path() / "checkpoint-5";
      fs::copy(sound, newer, fs::copy_options::recursive);
      std::string bytes = read_bytes(newer / name);
      const std::string whole = bytes;
      if (damage == "flip") bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
      if (damage == "truncate") bytes.pop_back();
      if (damage == "empty") bytes.clear();
      if (damage == "swap") bytes = read_bytes(older / name);
      write_bytes(newer / name, bytes);
      if (damage == "delete") fs::remove(newer / name);
      // The last byte of the manifest is a line's end; a file that is the same in both is no damage.
      const bool harmless = bytes == whole && damage == "swap";
      const bool only_line_end = std::string(name) == "manifest.json" && damage == "truncate";
      if (!harmless && !only_line_end) {
        EXPECT_NE(checkpoint_problem(newer), std::nullopt) << name << " " << damage;
        ::testing::internal::CaptureStderr();
        EXPECT_EQ(newest_valid_checkpoint(folder.path()), older) << name << " " << damage;
        ::testing::internal::GetCapturedStderr();
        EXPECT_THROW(load_checkpoint(newer), DataError);
      }
      fs::remove_all(newer);
    }
  }
}

TEST(Checkpoint, DamageIsAnnouncedWithFileAndCause) {
  const TemporaryFolder folder;
  const fs::path path = save(folder.path(), 5);
  std::string bytes = read_bytes(path / "optimizer.safetensors");
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write_bytes(path / "optimizer.safetensors", bytes);
  EXPECT_EQ(checkpoint_problem(path), "optimizer.safetensors is damaged: its SHA-256 differs");
  fs::remove(path / "optimizer.safetensors");
  EXPECT_EQ(checkpoint_problem(path), "optimizer.safetensors is missing");
  EXPECT_EQ(newest_valid_checkpoint(folder.path()), std::nullopt);
}

TEST(Checkpoint, FoldersOfAnotherStepAreNotMistakenForOne) {
  const TemporaryFolder folder;
  save(folder.path(), 3);
  save(folder.path(), 5);
  fs::remove_all(folder.path() / "checkpoint-5");
  fs::rename(folder.path() / "checkpoint-3", folder.path() / "checkpoint-5");
  EXPECT_EQ(checkpoint_problem(folder.path() / "checkpoint-5"), "manifest.json is of step 3");
}

TEST(Checkpoint, AFailedSaveLeavesNothingAndHarmsNothing) {
  const TemporaryFolder folder;
  const fs::path older = save(folder.path(), 3);
  EXPECT_THROW(save_checkpoint(folder.path(), 5, state_of(5),
                               [](const fs::path& path) {
                                 write_bytes(path / "half", "half");
                                 throw RuntimeFailure("the disk is full");
                               }),
               RuntimeFailure);
  EXPECT_EQ(names(folder.path()), std::set<std::string>{"checkpoint-3"});
  EXPECT_EQ(newest_valid_checkpoint(folder.path()), older);
}

TEST(Checkpoint, ListsByNumberAndNothingElse) {
  const TemporaryFolder folder;
  for (const char* name : {"checkpoint-10", "checkpoint-9", "checkpoint-x", "checkpoint-", "checkpoint-3b", "tmp-1"})
    fs::create_directory(folder.path() / name);
  write_bytes(folder.path() / "checkpoint-4", "a file");
  std::vector<std::int64_t> steps;
  for (const auto& [step, path] : list_checkpoints(folder.path())) steps.push_back(step);
  EXPECT_EQ(steps, (std::vector<std::int64_t>{9, 10}));
  EXPECT_TRUE(list_checkpoints(folder.path() / "absent").empty());
}

TEST(Checkpoint, RotationKeepsTheNewestAndTheBest) {
  const TemporaryFolder folder;
  for (std::int64_t step = 1; step <= 5; ++step) save(folder.path(), step);
  rotate_checkpoints(folder.path(), 3, std::nullopt);
  EXPECT_EQ(names(folder.path()), (std::set<std::string>{"checkpoint-3", "checkpoint-4", "checkpoint-5"}));
  rotate_checkpoints(folder.path(), 2, folder.path() / "checkpoint-3");
  EXPECT_EQ(names(folder.path()), (std::set<std::string>{"checkpoint-3", "checkpoint-5"}));
  rotate_checkpoints(folder.path(), 1, folder.path() / "checkpoint-3");
  EXPECT_EQ(names(folder.path()), (std::set<std::string>{"checkpoint-3", "checkpoint-5"}));
  rotate_checkpoints(folder.path(), 1, std::nullopt);
  EXPECT_EQ(names(folder.path()), std::set<std::string>{"checkpoint-5"});
}

TEST(Checkpoint, RotationWaitsUntilTheNewestIsSound) {
  const TemporaryFolder folder;
  for (std::int64_t step = 1; step <= 3; ++step) save(folder.path(), step);
  fs::remove(folder.path() / "checkpoint-3/manifest.json");
  rotate_checkpoints(folder.path(), 1, std::nullopt);
  EXPECT_EQ(names(folder.path()).size(), 3U);
}

}  // namespace
}  // namespace qlora
