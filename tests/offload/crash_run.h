// What a run of a few steps does to a disk, and what must be there whenever it was cut off: for
// tests that end it in one way or another and let it go on.
#pragma once

#include <fstream>
#include <functional>

#include "tests/io/temp_dir.h"
#include "tests/offload/disk_of_tests.h"

namespace thimble::testing {

enum CrashKey { kSmall, kBlock, kLong, kLate, kOne };

// Little, but the long one lies where a run of its file ends and another begins.
inline std::vector<TestArray> crash_arrays() {
  return {{"small", 4096, {5000}},
          {"block", 12'288, {4096}},
          {"long", kRunBytes - 8192, {20'000}},
          {"late", kRunBytes + 12'288, {3000}},
          {"one", kRunBytes + 16'384, {1}}};
}

/// What a run of a few steps does, to a disk and to plain memory or to that alone.
class Script {
 public:
  static constexpr std::int64_t kSteps = 5;

  explicit Script(TestDisk* disk) : disk_(disk), contents_(crash_arrays().size()) {}
  void set_disk(TestDisk* disk) { disk_ = disk; }

  void step(std::int64_t number) {
    if (number == 1) {
      for (const CrashKey key : {kSmall, kBlock, kLong, kOne}) create(key);
      write(kLong, 100, 8200, 7);
    }
    if (number == 2) create(kLate);
    if (number == 2 || number == 5) {  // its bytes are committed until this step is
      erase(kSmall);
      create(kSmall);
    }
    if (number == 4) erase(kBlock);
    if (number == 5) create(kBlock);
    std::mt19937_64 random(static_cast<std::uint64_t>(number));
    for (const CrashKey key : {kSmall, kBlock, kLong, kLate, kOne}) {
      if (!contents_[key]) continue;
      const std::size_t size = contents_[key]->size();
      for (int i = 0; i < 2; ++i) {
        const std::size_t a = random() % (size + 1), b = random() % (size + 1);
        write(key, static_cast<std::int64_t>(std::min(a, b)),
              static_cast<std::int64_t>(std::max(a, b)), random());
      }
    }
  }
  void steps_to(std::int64_t last) {
    for (std::int64_t number = 1; number <= last; ++number) step(number);
  }
  const std::vector<std::optional<Bytes>>& contents() const { return contents_; }

  void expect_on_disk(TestDisk& disk) const {
    for (std::size_t key = 0; key < contents_.size(); ++key) {
      if (!contents_[key]) continue;
      const auto size = static_cast<std::int64_t>(contents_[key]->size());
      if (disk.read(static_cast<int>(key), 0, size) != *contents_[key])
        throw_system("key {} is not what was committed", key);
    }
  }

 private:
  void create(CrashKey key) {
    if (disk_ != nullptr) (*disk_)->create(key);
    contents_[key].emplace(static_cast<std::size_t>(crash_arrays()[key].bytes_of(0)));
  }
  void erase(CrashKey key) {
    if (disk_ != nullptr) (*disk_)->erase(key);
    contents_[key].reset();
  }
  void write(CrashKey key, std::int64_t begin, std::int64_t end, std::uint64_t seed) {
    const Bytes bytes = many_random_bytes(static_cast<std::size_t>(end - begin), seed);
    if (disk_ != nullptr) disk_->write(key, begin, bytes);
    std::copy(bytes.begin(), bytes.end(), contents_[key]->begin() + begin);
  }

  TestDisk* disk_;
  std::vector<std::optional<Bytes>> contents_;
};

/// A run in a directory, which goes on where an earlier one was.
class CrashRun {
 public:
  /// `committed` hears of every step that is promised not to be lost any more.
  explicit CrashRun(
      DiskSetup setup, std::function<void(std::int64_t)> committed = [](std::int64_t) {})
      : setup_(std::move(setup)), committed_(std::move(committed)) {}

  static DiskSetup setup_in(const std::filesystem::path& directory, int slots) {
    return {.directory = directory, .arrays = crash_arrays(), .slots = slots};
  }
  /// What a run knows without its disk: the last step that was promised.
  static void set_done(const std::filesystem::path& directory, std::int64_t step) {
    std::ofstream(directory / "done") << step;
  }

  /// To the end. Throws if the state that it finds is not that of the last committed step.
  void go() {
    TestDisk disk(setup_);
    Script script(nullptr);
    std::int64_t step = 0;
    const std::optional<CommitRecord> record = newest_record(setup_.directory);
    if (record && record->torn && setup_.slots == 1) {
      const std::string why = message_of<UserError>([&] { TestDisk(setup_)->recover(*record); });
      TH_CHECK(why.find("was changing the state in place") != why.npos, "{}", why);
      std::filesystem::remove(setup_.directory / "link");
      std::filesystem::remove(done_path());
    }
    if (record && !record->torn) {
      TH_CHECK(record->step == done() || record->step == done() + 1, "step {} after {}",
               record->step, done());
      disk->recover(*record);
      step = record->step;
      script.steps_to(step);
      script.expect_on_disk(disk);
      after(disk, step);
    } else {
      TH_CHECK(done() == 0, "step {} is gone", done());
      disk->start_new();
    }
    script.set_disk(&disk);
    for (++step; step <= Script::kSteps; ++step) {
      script.step(step);
      disk->commit(step, "");
      set_done(setup_.directory, step);
      committed_(step);
      after(disk, step);
    }
    script.expect_on_disk(disk);
    TH_CHECK(state_files(setup_.directory).size() <= 3);
  }

 private:
  std::filesystem::path done_path() const { return setup_.directory / "done"; }
  std::int64_t done() const {
    std::ifstream file(done_path());
    std::int64_t step = 0;
    file >> step;
    return step;
  }

  // The state of step 2 is a checkpoint until step 4.
  void after(TestDisk& disk, std::int64_t step) const {
    const std::filesystem::path link = setup_.directory / "link";
    if (step == 2 && !std::filesystem::exists(link)) {
      const int file = disk->gather_in_one_file();
      std::filesystem::create_hard_link(disk->files().path(file), link);
      disk->settle_files();
    }
    if (std::filesystem::exists(link)) expect_checkpoint(link);
    if (step == 4) {
      std::filesystem::remove(link);
      disk->settle_files();
    }
  }
  static void expect_checkpoint(const std::filesystem::path& link) {
    Script second(nullptr);
    second.steps_to(2);
    const File file = File::open_read(link);
    for (std::size_t key = 0; key < second.contents().size(); ++key) {
      const Bytes& wanted = *second.contents()[key];
      Bytes bytes(wanted.size());
      file.read_at(crash_arrays()[key].offset, bytes);
      TH_CHECK(bytes == wanted, "key {} of the checkpoint has changed", key);
    }
  }

  DiskSetup setup_;
  std::function<void(std::int64_t)> committed_;
};

}  // namespace thimble::testing
