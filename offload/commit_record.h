// What a rank writes down when a step's state is whole on disk: where every key lies and the
// checksums of its bytes. A state counts only if such a record of it can be read, so that a crash
// in the middle of a step leaves the step before. Moves no state.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "offload/checksum_runs.h"

namespace thimble {

struct CommitRecord {
  struct Key {
    std::string name;
    std::int64_t bytes = 0;
    int file = -1;  // index in `files`; negative: nothing was written, all bytes are zero
    std::vector<ChecksumRun> runs;  // of all its bytes, in order
    friend bool operator==(const Key&, const Key&) = default;
  };
  std::string identity;         // of the run whose state it is
  std::int64_t generation = 0;  // counts the records of a run, the same number on all ranks
  std::int64_t step = 0;
  bool torn = false;  // a step has begun to change this state in place: it is no longer whole
  std::string note;   // of the caller; not looked into
  std::uint32_t layout = 0;        // checksum of where keys lie in the files
  std::vector<std::string> files;  // plain names in the directory of the record
  std::vector<Key> keys;           // those that are kept
  friend bool operator==(const CommitRecord&, const CommitRecord&) = default;
};

std::string commit_text(const CommitRecord& record);
/// Throws UserError naming `file` for anything that commit_text() has not written.
CommitRecord parse_commit(std::string_view text, std::string_view file);

/// Where a rank's record of a generation is. Two places take turns, so that the record before is
/// there until the next one but one is written.
std::filesystem::path commit_path(const std::filesystem::path& directory, int rank,
                                  std::int64_t generation);
/// Replaces the record at its place, durably. Failpoint "offload.record" before and after.
void write_commit(const std::filesystem::path& directory, int rank, const CommitRecord& record);
/// Removes the records of a rank but that of `generation` and the one before, durably: they are of
/// steps that are done again. 0: all.
void remove_commits_after(const std::filesystem::path& directory, int rank,
                          std::int64_t generation);
/// The records of a rank that can be read, newest first; what is wrong with others is appended to
/// `rejected`.
std::vector<CommitRecord> read_commits(const std::filesystem::path& directory, int rank,
                                       std::vector<std::string>& rejected);

}  // namespace thimble
