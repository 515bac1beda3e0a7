// Writes that fail half-way leave the old file and no litter; folders appear whole.
#include "qlora/core/atomic_file.h"

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <iterator>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "qlora/core/error.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;

class AtomicFiles : public testing::Test {
 protected:
  AtomicFiles() { fs::create_directories(root_); }
  ~AtomicFiles() override { fs::remove_all(root_); }

  static std::string content(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(root_)) names.push_back(entry.path().filename());
    return names;
  }

  const fs::path root_ = fs::path(testing::TempDir()) / ("atomic-" + std::to_string(getpid()) +
                                                         testing::UnitTest::GetInstance()->current_test_info()->name());
};

// A file size limit makes pwrite fail as a full disk does.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() { setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_{};
};

TEST_F(AtomicFiles, AFileIsReplacedAndNothingElseIsLeft) {
  write_file_atomically(root_ / "a/b/c.txt", "one");
  write_file_atomically(root_ / "a/b/c.txt", "two");
  EXPECT_EQ(content(root_ / "a/b/c.txt"), "two");
  EXPECT_EQ(std::distance(fs::directory_iterator(root_ / "a/b"), fs::directory_iterator()), 1);
}

TEST_F(AtomicFiles, WithoutCommitTheOldFileStays) {
  write_file_atomically(root_ / "f", "old");
  {
    AtomicFile file(root_ / "f");
    file.write("new");
    EXPECT_EQ(content(root_ / "f"), "old");
  }
  EXPECT_EQ(content(root_ / "f"), "old");
  EXPECT_THAT(names(), testing::ElementsAre("f"));
}

TEST_F(AtomicFiles, PiecesAndOffsets) {
  AtomicFile file(root_ / "f");
  file.write("0123");
  file.write_at(1, "ab");
  file.write("4");
  EXPECT_EQ(file.size(), 5u);
  file.commit();
  EXPECT_EQ(content(root_ / "f"), "0ab34");
}

TEST_F(AtomicFiles, AFullDiskNamesPathAndBytesAndKeepsTheOldFile) {
  write_file_atomically(root_ / "f", "old");
  std::string message;
  {
    const FileSizeLimit limit(1000);
    try {
      write_file_atomically(root_ / "f", std::string(5000, 'x'));
    } catch (const RuntimeFailure& error) {
      message = error.what();
    }
  }
  EXPECT_EQ(message, (root_ / "f").string() + ": cannot write it (5000 bytes): File too large");
  EXPECT_EQ(content(root_ / "f"), "old");
  EXPECT_THAT(names(), testing::ElementsAre("f"));
}

TEST_F(AtomicFiles, AFailedRenameLeavesNoLitter) {
  fs::create_directories(root_ / "f/inside");
  EXPECT_THROW(write_file_atomically(root_ / "f", "x"), RuntimeFailure);
  EXPECT_THAT(names(), testing::ElementsAre("f"));
  write_file_atomically(root_ / "file", "x");
  EXPECT_THROW(write_file_atomically(root_ / "file/below", "x"), RuntimeFailure);
}

TEST_F(AtomicFiles, AFolderAppearsWholeOrNotAtAll) {
  {
    const AtomicFolder folder(root_ / "out");
    write_file_atomically(folder.temporary() / "x", "1");
    EXPECT_FALSE(fs::exists(root_ / "out"));
  }
  EXPECT_TRUE(names().empty()) << "what was not committed is removed";
  AtomicFolder folder(root_ / "out/");
  fs::create_directories(folder.temporary() / "sub");
  write_file_atomically(folder.temporary() / "sub/x", "1");
  folder.commit();
  EXPECT_EQ(content(root_ / "out/sub/x"), "1");
  EXPECT_THAT(names(), testing::ElementsAre("out"));
}

TEST_F(AtomicFiles, AFolderTakesThePlaceOfAnOldOne) {
  write_file_atomically(root_ / "out/old", "1");
  AtomicFolder folder(root_ / "out");
  write_file_atomically(folder.temporary() / "new", "2");
  EXPECT_TRUE(fs::exists(root_ / "out/old"));
  folder.commit();
  EXPECT_FALSE(fs::exists(root_ / "out/old"));
  EXPECT_EQ(content(root_ / "out/new"), "2");
  EXPECT_THAT(names(), testing::ElementsAre("out"));
}

TEST_F(AtomicFiles, ALinkStaysAndWhatItPointsToIsReplaced) {
  fs::create_directories(root_ / "disk");
  fs::create_directory_symlink("disk/there", root_ / "link");  // of nothing yet
  for (const char* text : {"first", "second"}) {
    AtomicFolder written(root_ / "link");
    write_file_atomically(written.temporary() / "file", text);
    written.commit();
    EXPECT_TRUE(fs::is_symlink(root_ / "link"));
    EXPECT_EQ(content(root_ / "disk/there/file"), text);
  }
  fs::create_symlink("disk/there/file", root_ / "file");
  write_file_atomically(root_ / "file", "third");
  EXPECT_TRUE(fs::is_symlink(root_ / "file"));
  EXPECT_EQ(content(root_ / "disk/there/file"), "third");
}

TEST_F(AtomicFiles, AFolderIsWrittenToByOneRunAtATime) {
  {
    const FolderLock lock(root_);
    EXPECT_THROW(FolderLock{root_}, UsageError);
  }
  const FolderLock again(root_);
}

TEST_F(AtomicFiles, AFolderMovesOutAmongOthersFiles) {
  write_file_atomically(root_ / "out/mine", "0");
  write_file_atomically(root_ / "out/a", "1");
  {
    AtomicFolder folder(root_ / "out/new");
    for (const char* name : {"a", "b", "last"}) write_file_atomically(folder.temporary() / name, "2");
    EXPECT_EQ(content(root_ / "out/a"), "1");
    folder.move_out("last");
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(root_ / "out"), {}), 4);
  for (const char* name : {"a", "b", "last"}) EXPECT_EQ(content(root_ / "out" / name), "2") << name;
  EXPECT_EQ(content(root_ / "out/mine"), "0");
}

// The lock of a folder that is being filled lives as long as its owner.
TEST_F(AtomicFiles, WhatAKilledCallLeftBesideItsOutputIsRemovedByTheNext) {
  fs::path left;
  {
    const AtomicFolder killed(root_ / "out");
    left = killed.temporary();
    fs::copy(left, root_ / "aside");
  }
  fs::rename(root_ / "aside", left);
  write_file_atomically(left / "weights", "1");
  const fs::path mine = root_ / "tmp-out.mine", other = root_ / "tmp-other.qlora-1f-2a";
  for (const fs::path& path : {mine, other}) fs::create_directories(path);
  const AtomicFolder next(root_ / "out");
  EXPECT_FALSE(fs::exists(left));
  const AtomicFolder beside(root_ / "out");
  for (const fs::path& path : {next.temporary(), beside.temporary(), mine, other})
    EXPECT_TRUE(fs::exists(path)) << path;
}

TEST_F(AtomicFiles, LeftoversOfKilledRunsAreRemoved) {
  std::string left;
  {
    const AtomicFolder folder(root_ / "out");
    left = folder.temporary().filename().string();
  }
  fs::create_directories(root_ / left / "x");
  for (const char* name : {"keep", "tmp-mine", "tmp-12-34", "tmp-qlora-mine"}) write_file_atomically(root_ / name, "1");
  remove_leftovers(root_);
  EXPECT_THAT(names(), testing::UnorderedElementsAre("keep", "tmp-mine", "tmp-12-34", "tmp-qlora-mine"));
}

}  // namespace
}  // namespace qlora
