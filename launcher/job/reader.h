// From TOML text to a JobConfig, with every mistake collected instead of the first one thrown.
// Touches no file and no environment: paths stay as written. Used by load_job.h, which throws what
// was collected.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "launcher/job/walk_fields.h"

namespace thimble::job {

/// Where a value was written: a line and column of the job file, or an override ("--set
/// optimizer.lr=1", whose line is its rank among the overrides).
struct Place {
  std::int64_t line = 1;
  std::int64_t column = 1;
  std::string override_label;  // not empty: an override
};

/// One value from outside the file, which overrides the file's.
struct JobOverride {
  std::string key;    // dotted
  std::string text;   // as written; empty: the key's default
  std::string label;  // "--set optimizer.lr=1e-4" or "THIMBLE_OPTIMIZER_LR=1e-4"
};

/// Mistakes, printed in the order of the file, overrides last.
class JobErrors {
 public:
  explicit JobErrors(std::string file) : file_(std::move(file)) {}
  void add(const Place& place, std::string message);
  const std::string& file() const { return file_; }
  bool empty() const { return errors_.empty(); }
  /// Whether there are more mistakes than anyone reads, so that collecting may stop.
  bool full() const { return errors_.size() >= kMaxErrors; }
  /// One line each: "job.toml:14:1: error: ...".
  std::string text() const;

 private:
  static constexpr std::size_t kMaxErrors = 100;
  struct Entry {
    Place place;
    std::string message;
  };
  std::string file_;
  std::vector<Entry> errors_;
};

/// A job as far as it could be read.
struct JobDraft {
  explicit JobDraft(std::string file) : errors(std::move(file)) {}
  JobConfig config;
  JobErrors errors;
  std::map<std::string, Place> places;  // of every key and table that was given
  std::set<std::string> valid;          // the given keys whose values are usable
  std::vector<std::string> applied;     // one line per override
  bool syntax_error = false;            // not TOML: nothing could be read

  /// Where `key` was given, else the nearest table around it, else the start of the file.
  Place place_of(std::string_view key) const;
  bool given(std::string_view key) const { return places.contains(std::string(key)); }
  bool usable(std::string_view key) const { return valid.contains(std::string(key)); }
};

/// Reads `text` into the tables that `visit` visits, applies `overrides` in order; what is wrong
/// goes to `draft`. Never throws for what the text or an override says.
void read_tables(std::string_view text, std::span<const JobOverride> overrides,
                 const TableVisit& visit, JobDraft& draft);

/// Reads a whole job by read_tables: types, ranges, choices and what this release has are checked.
/// Combinations of keys are check_combinations' work. Never throws for what the text or an
/// override says.
JobDraft read_job(std::string_view text, const std::string& file,
                  std::span<const JobOverride> overrides);

/// Checks rules that concern more than one key, and fills in what depends on others (warmup_ratio,
/// val_set_size).
void check_combinations(JobDraft& draft);

/// "unknown key 'learning_rate' in [optimizer]; Thimble calls it 'lr'". `table` is dotted, empty
/// for the top level; `known` are the keys and tables the table has.
std::string unknown_key_message(std::string_view table, std::string_view key,
                                std::span<const std::string> known);

/// "unknown table [optimiser]; did you mean [optimizer]?"
std::string unknown_table_message(std::string_view table);

}  // namespace thimble::job
