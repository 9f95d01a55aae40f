// A disk of keys for one rank of a test, in files of a layout that needs no HDF5, with reads and
// writes that wait.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <random>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "offload/slot_disk.h"
#include "tests/io/aligned_bytes.h"

namespace thimble::testing {

using Bytes = std::vector<std::byte>;

/// Many random bytes in little time.
inline Bytes many_random_bytes(std::size_t size, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Bytes bytes(size);
  for (std::size_t at = 0; at < size; at += sizeof(std::uint64_t)) {
    const std::uint64_t word = random();
    std::memcpy(bytes.data() + at, &word, std::min(sizeof(word), size - at));
  }
  return bytes;
}

/// All of a file.
inline Bytes bytes_of_file(const std::filesystem::path& path) {
  const File file = File::open_read(path);
  Bytes bytes(static_cast<std::size_t>(file.size()));
  file.read_at(0, bytes);
  return bytes;
}

/// An array that ranks share: where it lies, and where each rank's part ends.
struct TestArray {
  std::string name;
  std::int64_t offset = 0;
  std::vector<std::int64_t> ends;  // of the ranks' parts

  std::int64_t begin_of(int rank) const {
    return rank == 0 ? 0 : ends[static_cast<std::size_t>(rank) - 1];
  }
  std::int64_t bytes_of(int rank) const {
    return ends[static_cast<std::size_t>(rank)] - begin_of(rank);
  }
};

/// Arrays one after another, each from a whole block on.
inline std::vector<TestArray> arrays_of(
    const std::vector<std::pair<std::string, std::vector<std::int64_t>>>& parts) {
  std::vector<TestArray> arrays;
  std::int64_t at = SlotDisk::kBlock;
  for (const auto& [name, ends] : parts) {
    arrays.push_back({name, at, ends});
    at = round_up(at + ends.back(), SlotDisk::kBlock);
  }
  return arrays;
}
/// Those of one rank.
inline std::vector<TestArray> arrays_of_sizes(
    const std::vector<std::pair<std::string, std::int64_t>>& sizes) {
  std::vector<std::pair<std::string, std::vector<std::int64_t>>> parts;
  for (const auto& [name, bytes] : sizes) parts.push_back({name, {bytes}});
  return arrays_of(parts);
}

inline std::vector<std::int64_t> alone(std::int64_t mine) {
  return {mine};
}

struct DiskSetup {
  std::filesystem::path directory;
  std::vector<TestArray> arrays;
  int slots = 2;
  FileEngineKind engine = FileEngineKind::kAuto;
  int rank = 0;
  GatherNumbers gather = alone;
  std::string identity = "a run";
  bool own_files = false;                        // of this rank
  std::vector<std::filesystem::path> more = {};  // other disks, to which arrays are dealt in turn
};

inline SlotMaker maker_of(const std::vector<TestArray>& arrays, int rank, int disks = 1) {
  return {.make =
              [arrays](const std::filesystem::path& path) {
                // As HDF5 does, it empties what has that name.
                const File file = File::create(path);
                const TestArray& last = arrays.back();
                std::filesystem::resize_file(
                    path, static_cast<std::uintmax_t>(
                              round_up(last.offset + last.ends.back() + 1, SlotDisk::kBlock)));
              },
          .layout =
              [arrays, rank, disks](const std::filesystem::path&) {
                ExtentTable table;
                int turn = 0;
                for (const TestArray& a : arrays) {
                  table.add(a.name, {name_of_disk(turn++ % disks), a.offset + a.begin_of(rank),
                                     a.bytes_of(rank)});
                }
                return table;
              }};
}

inline std::vector<DiskKey> keys_of(const std::vector<TestArray>& arrays, int rank) {
  std::vector<DiskKey> keys;
  for (const TestArray& a : arrays) keys.push_back({a.name, a.bytes_of(rank)});
  return keys;
}

class TestDisk {
 public:
  explicit TestDisk(const DiskSetup& setup)
      : scratch_(new std::byte[SlotDisk::kScratchBytes]),
        engine_(make_file_engine({.kind = setup.engine, .queue_depth = 4})),
        disk_({.files = {.directory = setup.directory,
                         .more = setup.more,
                         .suffix = setup.own_files ? fmt::format(".rank{}", setup.rank) : "",
                         .rank = setup.rank,
                         .makes = setup.own_files || setup.rank == 0,
                         .maker = maker_of(setup.arrays, setup.rank,
                                           static_cast<int>(1 + setup.more.size())),
                         .gather = setup.gather},
               .identity = setup.identity,
               .slots = setup.slots},
              keys_of(setup.arrays, setup.rank), *engine_,
              {scratch_.get(), SlotDisk::kScratchBytes}) {}

  SlotDisk& operator*() { return disk_; }
  SlotDisk* operator->() { return &disk_; }

  void write(int key, std::int64_t begin, std::span<const std::byte> bytes) {
    const KeyRange range{key, begin, begin + static_cast<std::int64_t>(bytes.size())};
    const AlignedBytes memory(memory_for(range));
    std::byte* at = memory.all().data() + disk_.lead(range);
    std::copy(bytes.begin(), bytes.end(), at);
    std::vector<Completion> io = disk_.start_write(range, at);
    wait_all(io);
  }
  Bytes read(int key, std::int64_t begin, std::int64_t end) {
    const KeyRange range{key, begin, end};
    const AlignedBytes memory(memory_for(range));
    std::byte* at = memory.all().data() + disk_.lead(range);
    std::vector<Completion> io = disk_.start_read(range, at);
    wait_all(io);
    disk_.check_read(range, at);
    return {at, at + range.bytes()};
  }

 private:
  std::size_t memory_for(const KeyRange& range) const {
    return static_cast<std::size_t>(disk_.room(range) + SlotDisk::kBlock);
  }

  std::unique_ptr<std::byte[]> scratch_;  // not touched before it is used
  std::unique_ptr<FileEngine> engine_;
  SlotDisk disk_;
};

/// The newest record of a rank, none if there is none; every record must be readable.
inline std::optional<CommitRecord> newest_record(const std::filesystem::path& directory,
                                                 int rank = 0) {
  std::vector<std::string> rejected;
  const std::vector<CommitRecord> found = read_commits(directory, rank, rejected);
  for (const std::string& why : rejected) throw_system("{}", why);
  if (found.empty()) return std::nullopt;
  return found.front();
}

/// The names of state files in a directory.
inline std::vector<std::string> state_files(const std::filesystem::path& directory) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("state-")) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace thimble::testing
