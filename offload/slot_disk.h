// Bytes with names on disk, of which the state after every step is whole at any moment: a step
// writes beside what was there before, and counts when its commit record is written. Knows neither
// tensors nor optimizers. Ref: two slots as in the design's decision "the swap file is a
// checkpoint".
//
// Transfers go past the page cache in whole blocks; what of a range does not fill a block goes
// through the cache. So memory for a range must lie at the same place within a block as the range
// does in its file, with room up to whole blocks around it: see lead() and room().
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/io/file_engine.h"
#include "offload/checksum_runs.h"
#include "offload/commit_record.h"
#include "offload/slot_files.h"
#include "offload/spill_file.h"

namespace thimble {

struct DiskKey {
  std::string name;
  std::int64_t bytes = 0;  // of what this rank keeps
  bool passing = false;    // in no commit: what was written last, within this run
};

/// Bytes [begin, end) of a key.
struct KeyRange {
  int key = 0;
  std::int64_t begin = 0, end = 0;
  std::int64_t bytes() const { return end - begin; }
  bool overlaps(const KeyRange& other) const {
    return key == other.key && begin < other.end && other.begin < end;
  }
};

/// What went to and came from the disk.
struct DiskTraffic {
  std::int64_t read = 0, written = 0;
  std::int64_t total() const { return read + written; }
  DiskTraffic& operator+=(const DiskTraffic& more) {
    read += more.read;
    written += more.written;
    return *this;
  }
  friend DiskTraffic operator-(const DiskTraffic& a, const DiskTraffic& b) {
    return {a.read - b.read, a.written - b.written};
  }
};

struct SlotDiskOptions {
  SlotFiles::Options files;
  std::string identity;  // of the run
  int slots = 2;  // 1: changes are made in place, and a crash in the middle of a step loses them
};

class SlotDisk {
 public:
  static constexpr std::int64_t kBlock = SpillFile::kBlock;
  /// Memory that it works in: an own run, with its blocks.
  static constexpr std::int64_t kScratchBytes = kRunBytes + 2 * kBlock;

  /// `engine` and `scratch` must outlive it. Nothing is on disk yet.
  SlotDisk(SlotDiskOptions options, std::vector<DiskKey> keys, FileEngine& engine,
           std::span<std::byte> scratch);
  /// Makes the files, for what has been created; or the state is that of the record, and its keys
  /// are those that are kept. One of them before anything else, by all ranks together. Throws
  /// UserError for the record of another job.
  void start_new();
  void recover(const CommitRecord& record);

  /// Where a range begins in its block, and the bytes of the blocks that hold it.
  std::int64_t lead(const KeyRange& range) const {
    return is_aligned(range) ? position(range.key, range.begin) % kBlock : 0;
  }
  std::int64_t room(const KeyRange& range) const;

  /// Bytes from a position of a key to where the run that holds it ends in its file.
  std::int64_t bytes_to_run_end(int key, std::int64_t at) const {
    return kRunBytes - position(key, at) % kRunBytes;
  }

  /// The key is kept from now on, all zero. Not for one that is passing: it is there, always.
  void create(int key);
  void erase(int key);

  /// Reads a range as it is now. `at`: where its first byte goes.
  std::vector<Completion> start_read(const KeyRange& range, std::byte* at);
  /// The same to any place, without room around, through the cache.
  std::vector<Completion> start_exact_read(const KeyRange& range, std::byte* at);
  /// Compares what was read with the checksums. Throws SystemError that names file and bytes.
  void check_read(const KeyRange& range, std::byte* at);
  /// Whether a write of this range takes apart a run that was written before, which is then read:
  /// all writes under way must have ended.
  bool would_cut(const KeyRange& range) const;
  /// Writes a range, which is then what reading gives. The memory must stay as it is until done.
  std::vector<Completion> start_write(const KeyRange& range, const std::byte* at);

  /// Everything written so far, whose transfers have ended, is the state of `step`; all ranks
  /// together. Throws SystemError if that cannot be made durable; the state before is untouched.
  void commit(std::int64_t step, const std::string& note);
  /// Brings all of the committed state into one file and commits that; all ranks together. Returns
  /// the file's index.
  int gather_in_one_file();
  /// Says again which files may be written, after a file was given another name or lost it.
  void settle_files();

  const SlotFiles& files() const { return files_; }
  /// Whether whole blocks pass the page cache.
  bool is_direct() const;
  /// Runs of the file that the committed keys have, in positions of the file.
  std::vector<ChecksumRun> runs_of_file(int index) const;
  const DiskTraffic& traffic() const { return traffic_; }

 private:
  // Places other than the state's files.
  static constexpr int kNowhere = -1;  // they are zero
  static constexpr int kSpill = -2;    // of passing keys
  // Where the bytes of a key are.
  struct Place {
    int file = kNowhere;
    ChecksumRuns runs;
  };
  struct Kept {
    std::int64_t offset = 0;  // in every file
    int disk = 0;             // of every file
    bool exists = false;
    bool pending = false;  // the running step has written some of it
    Place now, next;       // at the last commit; what the running step has written
  };
  struct Source {
    int file = kNowhere;
    std::int64_t begin = 0, end = 0;
  };

  // Whether memory at the same place within a block is aligned for every element. What is not
  // (HDF5 puts small arrays anywhere) goes through the page cache.
  bool is_aligned(const KeyRange& range) const { return position(range.key, range.begin) % 8 == 0; }
  std::int64_t position(int key, std::int64_t at) const { return kept(key).offset + at; }
  Kept& kept(int key) { return kept_.at(static_cast<std::size_t>(key)); }
  const Kept& kept(int key) const { return kept_.at(static_cast<std::size_t>(key)); }
  const DiskKey& about(int key) const { return keys_[static_cast<std::size_t>(key)]; }
  // The file that has the bytes of a key.
  const File& direct(int file, int key) const {
    return file == kSpill ? spill_->direct(kept(key).disk) : files_.direct(file, kept(key).disk);
  }
  const File& cached(int file, int key) const {
    return file == kSpill ? spill_->cached(kept(key).disk) : files_.cached(file, kept(key).disk);
  }
  void place_keys();
  std::vector<Source> sources(const KeyRange& range) const;
  int file_to_write(const Kept& key) const;
  Place& place_to_write(int key);
  void make_torn();
  void split_cut_runs(int key, Place& place, std::span<const ChecksumRun> runs);
  std::span<std::byte> read_run(int key, int file, const ChecksumRun& run);
  void fill_gaps(int key);
  void write_record(std::int64_t step, const std::string& note);

  SlotDiskOptions options_;
  std::vector<DiskKey> keys_;
  FileEngine& engine_;
  std::span<std::byte> scratch_;
  SlotFiles files_;
  std::optional<SpillFiles> spill_;  // with passing keys
  std::vector<Kept> kept_;
  std::vector<bool> writable_;  // by file
  CommitRecord record_;         // the last one, without its keys
  bool torn_ = false;
  DiskTraffic traffic_;
};

}  // namespace thimble
