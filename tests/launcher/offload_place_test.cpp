// Where a run keeps its state on disk: places that cannot be used are refused and left as they
// were, what was left there is never lost by accident, and what makes a disk slow is said.
#include <fmt/format.h>

#include <functional>

#include "core/io/file_system.h"
#include "tests/io/in_child.h"
#include "tests/io/poor_process.h"
#include "tests/launcher/program.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

const std::string kHere = "--set offload.state=ssd --set offload.cache=0B --set offload.path=ssd ";
// In the middle of a step that no checkpoint holds.
const std::string kKilled = "THIMBLE_FAILPOINT=offload.record:10:kill";

class OffloadPlaceTest : public ::testing::Test {
 protected:
  OffloadPlaceTest() { fs::create_directory(d_.path("ssd")); }

  int train(const std::string& name, const std::string& more, const std::string& environment = "") {
    return d_.run("train job.toml --set training.matmul=f32 --set name=" + name + " " + more,
                  environment);
  }
  void cut_off(const std::string& name) {
    ASSERT_EQ(train(name, kHere, kKilled), 128 + 9) << d_.err();
    ASSERT_FALSE(is_empty());
  }
  std::string model_of(const std::string& name) {
    return d_.file("runs/" + name + "/model/model.safetensors");
  }
  bool is_empty() { return fs::is_empty(d_.path("ssd")); }
  int times_said(const std::string& text) {
    const std::string err = d_.err();
    int count = 0;
    for (std::size_t at = err.find(text); at != err.npos; at = err.find(text, at + 1)) ++count;
    return count;
  }
  void refused(const std::string& name, const std::string& more,
               std::initializer_list<std::string> texts) {
    EXPECT_EQ(train(name, more), 2) << more;
    for (const std::string& text : texts) EXPECT_EQ(times_said(text), 1) << text << d_.err();
  }

  // A model of so many layers of 16.8 M parameters; nothing of it is allocated before it is
  // refused.
  void write_layers(std::int64_t layers) {
    d_.write("config.json", R"({"model_type":"llama","hidden_size":1024,"intermediate_size":4096,)"
                            R"("num_attention_heads":8,"num_key_value_heads":8,"vocab_size":257,)"
                            R"("max_position_embeddings":128,"num_hidden_layers":)" +
                                std::to_string(layers) + "}");
  }

  ProgramDir d_{fs::temp_directory_path()};
};

TEST_F(OffloadPlaceTest, WhatCannotBeMadeIsNamedAndNothingIsLeft) {
  const std::string ssd = "--set offload.state=ssd ";
  refused("a", ssd + "--set offload.path=text.txt/x",
          {"offload.path = \"" + d_.path("text.txt/x").string() + "\": cannot make",
           ": Not a directory"});
  refused("a", ssd + "--set offload.path=/proc/thimble", {"cannot make /proc/thimble/"});
  const fs::path memory = "/dev/shm/" + d_.path().filename().string();
  refused("a", ssd + "--set offload.path=" + (memory / "deep").string(),
          {"it is on tmpfs, which is memory", "offload.any_file_system = true"});
  EXPECT_FALSE(fs::exists(memory));
  EXPECT_FALSE(fs::exists(d_.path("runs")));
}

TEST_F(OffloadPlaceTest, TooLittleRoomNamesTheBytesAndTheSettings) {
  // As many as the place cannot hold twice.
  write_layers(file_system_of("/dev/shm").free_bytes / (2 * 190'000'000) + 1);
  refused("large",
          "--set offload.state=ssd --set offload.any_file_system=true "
          "--set offload.path=/dev/shm/" +
              d_.path().filename().string(),
          {" are free, and the state takes ", " (2 of ", "offload.slots = 1 takes one less",
           "offload.path can be on another disk"});
  EXPECT_FALSE(fs::exists("/dev/shm/" + d_.path().filename().string()));
  EXPECT_FALSE(fs::exists(d_.path("runs")));
}

TEST_F(OffloadPlaceTest, RoomIsForGradientsToo) {
  // In f32 12 bytes of state, which fit, and 2 of a gradient in bf16, which do not.
  write_layers(file_system_of("/dev/shm").free_bytes / 100 * 95 / (12 * 16'779'264));
  refused("gradients",
          "--set offload.state=ssd --set offload.gradients=ssd --set offload.slots=1 "
          "--set training.micro_batch_size=8 --set memory.recompute=full --set offload.cache=0B "
          "--set offload.any_file_system=true --set offload.path=/dev/shm/" +
              d_.path().filename().string(),
          {" are free beside the state, and the gradients take "});
  EXPECT_FALSE(fs::exists("/dev/shm/" + d_.path().filename().string()));
}

TEST_F(OffloadPlaceTest, OneRunAtATime) {
  ASSERT_NO_FATAL_FAILURE(cut_off("a"));
  const fs::path place = fs::directory_iterator(d_.path("ssd"))->path();
  {
    const LockFile other(place / "lock");
    refused("a", kHere,
            {"offload.path = \"" + d_.path("ssd").string(),
             fmt::format("is in use by process {} (lock file {}", ::getpid(),
                         (place / "lock").string())});
  }
  ASSERT_EQ(train("a", kHere), 0) << d_.err();
  EXPECT_EQ(times_said("resuming from the state of step 3 on disk"), 1) << d_.err();
  EXPECT_TRUE(is_empty());
}

TEST_F(OffloadPlaceTest, AStateIsFoundWhereItsRunLeftIt) {
  ASSERT_EQ(train("whole", kHere), 0) << d_.err();
  ASSERT_NO_FATAL_FAILURE(cut_off("a"));
  for (const std::string other : {"--set offload.state=ssd --set offload.path=new/place",
                                  "--set offload.state=ssd", "--set offload.state=memory"}) {
    refused("a", other,
            {"interrupted at step 3 with its state in",
             "go on with offload.path = \"" + d_.path("ssd").string()});
  }
  EXPECT_FALSE(fs::exists(d_.path("new")));
  // The directory may be moved.
  fs::rename(d_.path("runs/a"), d_.path("runs/b"));
  ASSERT_EQ(train("b", kHere), 0) << d_.err();
  EXPECT_EQ(times_said("resuming from the state of step 3 on disk"), 1) << d_.err();
  EXPECT_EQ(model_of("b"), model_of("whole"));
  EXPECT_TRUE(is_empty());
  EXPECT_FALSE(fs::exists(d_.path("runs/b/offload_at.txt")));
}

TEST_F(OffloadPlaceTest, TheStateOfAnotherRunIsNotTaken) {
  ASSERT_EQ(train("whole", kHere), 0) << d_.err();
  ASSERT_NO_FATAL_FAILURE(cut_off("a"));
  const auto entry = [&] { return fs::directory_iterator(d_.path("ssd"))->path(); };
  const fs::path first = entry();
  // Another run in its place, which has its own state, and both go on from theirs.
  fs::rename(d_.path("runs/a"), d_.path("runs/b"));
  ASSERT_EQ(train("a", kHere, kKilled), 128 + 9) << d_.err();
  EXPECT_EQ(times_said(first.string() + " holds the state of a run that was in"), 1) << d_.err();
  EXPECT_EQ(times_said("resuming"), 0) << d_.err();
  for (const std::string name : {"b", "a"}) {
    ASSERT_EQ(train(name, kHere), 0) << d_.err();
    EXPECT_EQ(times_said("resuming from the state of step 3 on disk"), 1) << d_.err();
    EXPECT_EQ(model_of(name), model_of("whole")) << name;
  }
  EXPECT_TRUE(is_empty());

  // One whose directory was given the name of ours.
  ASSERT_NO_FATAL_FAILURE(cut_off("c"));
  const fs::path of_c = entry();
  fs::rename(of_c, d_.path("c"));
  ASSERT_NO_FATAL_FAILURE(cut_off("d"));
  const fs::path of_d = entry();
  fs::remove_all(of_d);
  fs::rename(d_.path("c"), of_d);
  refused("d", kHere, {"holds the state of another run, " + of_c.filename().string()});
}

TEST_F(OffloadPlaceTest, ACopyOfARunDoesNotTakeItsState) {
  ASSERT_NO_FATAL_FAILURE(cut_off("a"));
  fs::copy(d_.path("runs/a"), d_.path("runs/b"), fs::copy_options::recursive);
  refused("b", kHere, {"holds the state of " + d_.path("runs/a").string() + ", of which"});
  ASSERT_EQ(train("a", kHere), 0) << d_.err();
  EXPECT_EQ(times_said("resuming from the state of step 3 on disk"), 1) << d_.err();
}

TEST_F(OffloadPlaceTest, ADamagedStateIsKeptAndSaysWhatToDo) {
  ASSERT_EQ(train("whole", kHere), 0) << d_.err();
  ASSERT_NO_FATAL_FAILURE(cut_off("a"));
  const fs::path place = fs::directory_iterator(d_.path("ssd"))->path();
  for (const char* record : {"commit-0-even", "commit-0-odd"})
    write_file_atomic(place / record, "damaged");
  refused("a", kHere,
          {"no commit record of the state in " + place.string(), "--resume-from", "--fresh"});
  EXPECT_TRUE(fs::exists(place / "commit-0-odd"));
  ASSERT_EQ(train("a", kHere + "--resume-from 2"), 0) << d_.err();
  EXPECT_EQ(times_said("the damaged state is now in " + place.string()), 1) << d_.err();
  EXPECT_EQ(model_of("a"), model_of("whole"));
}

TEST_F(OffloadPlaceTest, WhatMakesTransfersSlowIsSaidOnce) {
  ASSERT_EQ(train("whole", kHere), 0) << d_.err();
  EXPECT_EQ(times_said("offload: "), 1) << d_.err();  // of the plan
  const fs::path memory = "/dev/shm/" + d_.path().filename().string();
  struct Poor {
    std::string name, more, said;
    std::function<bool()> make_poor;
  };
  for (const Poor& poor :
       {Poor{"threads", kHere, "by threads, not io_uring: Operation not permitted",
             testing::forbid_io_uring},
        Poor{"cached",
             "--set offload.state=ssd --set offload.any_file_system=true --set offload.path=" +
                 memory.string(),
             "its file system knows no transfers past the page cache (O_DIRECT)",
             [] { return true; }},
        Poor{"unlocked", kHere, "the limit of locked memory (ulimit -l) is 64.0 KiB",
             [] { return testing::limit_locked_memory(65536); }}}) {
    const int code = testing::in_child(
        "", [&] { return poor.make_poor() ? train(poor.name, poor.more) : testing::kBad; });
    ASSERT_EQ(code, 0) << d_.err();
    EXPECT_EQ(times_said(poor.said), 1) << d_.err();
    EXPECT_EQ(model_of(poor.name), model_of("whole")) << poor.name;
  }
  EXPECT_FALSE(fs::exists(memory));
  EXPECT_EQ(testing::in_child("",
                              [&] {
                                testing::forbid_io_uring();
                                return d_.run("doctor --json");
                              }),
            0)
      << d_.err();
  EXPECT_NE(d_.out().find("io: files are read by threads, not io_uring"), std::string::npos);
}

}  // namespace
}  // namespace thimble
