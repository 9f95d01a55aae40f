// The one description of every key of a job: name, meaning, type, range, choices, whether this
// release has it, and what a change of it means for a resumed run. Parser, range checks, help,
// docs, schema, resolved job, shell completion and resume all walk these fields; nothing else in
// Thimble lists keys.
#pragma once

#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "launcher/job/job_config.h"

namespace thimble::job {

struct Field;
using FieldVisitor = std::function<void(Field&)>;

/// An enumeration of any type, seen as an index into its spellings.
struct ChoiceValue {
  std::span<const std::string_view> names;
  std::function<std::size_t()> get;
  std::function<void(std::size_t)> set;
};

/// A nested table: always there, or optional (then `create` makes it).
struct TableValue {
  bool optional = false;
  bool is_inline = false;  // written { key = value } inside its parent
  std::function<bool()> present;
  std::function<void()> create;
  std::function<void(const FieldVisitor&)> visit;
};

/// An array of tables.
struct TableListValue {
  std::function<std::size_t()> size;
  std::function<void()> append;
  std::function<void(std::size_t, const FieldVisitor&)> visit;
};

using FieldValue =
    std::variant<bool*, std::int64_t*, double*, std::string*, std::optional<std::int64_t>*,
                 std::optional<double>*, AutoInt*, AutoBytes*, ByteSize*, std::vector<std::string>*,
                 std::array<double, 2>*, std::map<std::string, std::string>*, ChoiceValue,
                 TableValue, TableListValue>;

/// The numbers a field takes; applies to every element of a list.
struct Range {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool min_open = false;
  bool max_open = false;

  bool contains(double value) const;
  /// "> 0", ">= 1", "0 to 1", ">= 0 and < 1"; empty if every number is allowed.
  std::string text() const;
};

enum class PathKind : std::uint8_t {
  kNone,
  kInput,      // relative to the job file, must exist unless it is a glob
  kModel,      // as kInput, a run, or a Hub id that is in the local cache
  kTokenizer,  // as kInput, or "byte"
  kCache,      // relative to the job file, made when missing
  kOutput,     // relative to the working directory, made when missing
};

/// What a changed value means when a run is resumed.
enum class ResumeClass : std::uint8_t {
  kRefused,       // another experiment
  kContinues,     // changes no result that was promised, or only how often something happens
  kDuration,      // continues, with the learning-rate schedule recomputed
  kModelContent,  // continues if the model's bytes are the same
  kDataContent,   // continues if the data's bytes are the same
};

struct Field {
  std::string_view name;
  std::string_view doc;  // one line
  FieldValue value;
  Range range{};
  std::string_view unit{};
  std::string_view default_text{};          // where the default is not the value of a new struct
  std::vector<std::string_view> choices{};  // of a string, or of a map's keys
  std::vector<std::string_view> later{};    // values that this release refuses
  bool required = false;
  bool released = true;  // false: the whole key is refused in this release
  PathKind path = PathKind::kNone;
  ResumeClass resume = ResumeClass::kRefused;
};

void visit_fields(const FieldVisitor& visitor, JobConfig& job);
void visit_fields(const FieldVisitor& visitor, ModelConfig& model);
void visit_fields(const FieldVisitor& visitor, RopeScalingConfig& rope);
void visit_fields(const FieldVisitor& visitor, DataConfig& data);
void visit_fields(const FieldVisitor& visitor, TrainSource& source);
void visit_fields(const FieldVisitor& visitor, EvalSource& source);
void visit_fields(const FieldVisitor& visitor, TrainingConfig& training);
void visit_fields(const FieldVisitor& visitor, OptimizerConfig& optimizer);
void visit_fields(const FieldVisitor& visitor, FallbackConfig& fallback);
void visit_fields(const FieldVisitor& visitor, OptimizerGroup& group);
void visit_fields(const FieldVisitor& visitor, LrSchedulerConfig& schedule);
void visit_fields(const FieldVisitor& visitor, MemoryConfig& memory);
void visit_fields(const FieldVisitor& visitor, ParallelismConfig& parallelism);
void visit_fields(const FieldVisitor& visitor, CheckpointConfig& checkpoint);
void visit_fields(const FieldVisitor& visitor, ExportConfig& export_config);
void visit_fields(const FieldVisitor& visitor, EvalConfig& eval);
void visit_fields(const FieldVisitor& visitor, LoggingConfig& logging);

/// Builders of FieldValue for enumerations, tables and lists of tables.
template <typename Enum>
ChoiceValue choice(Enum& value) {
  return {.names = kSpellings<Enum>,
          .get = [&value] { return static_cast<std::size_t>(value); },
          .set = [&value](std::size_t index) { value = static_cast<Enum>(index); }};
}

template <typename Struct>
TableValue table(Struct& value) {
  return {.present = [] { return true; },
          .create = [] {},
          .visit = [&value](const FieldVisitor& visitor) { visit_fields(visitor, value); }};
}

template <typename Struct>
TableValue inline_table(std::optional<Struct>& value) {
  return {.optional = true,
          .is_inline = true,
          .present = [&value] { return value.has_value(); },
          .create = [&value] { value.emplace(); },
          .visit = [&value](const FieldVisitor& visitor) { visit_fields(visitor, *value); }};
}

template <typename Struct>
TableListValue table_list(std::vector<Struct>& list) {
  return {.size = [&list] { return list.size(); },
          .append = [&list] { list.emplace_back(); },
          .visit = [&list](std::size_t index,
                           const FieldVisitor& visitor) { visit_fields(visitor, list[index]); }};
}

/// A field's value as TOML, empty if it is not set ("auto" and defaults are values). Tables are
/// written inline.
std::string value_text(const Field& field);

/// As value_text, strings without their quotes: what `later` lists and messages compare.
std::string plain_text(const Field& field);

/// A TOML basic string.
std::string quoted(std::string_view text);

/// The shortest TOML float that reads back as `value`.
std::string float_text(double value);

/// Calls `leaf(key, field)` for every field that is no table, depth first in the order of the file.
/// Keys are dotted, elements of lists indexed: "data.train[0].weight".
void walk_fields(JobConfig& job, const std::function<void(const std::string&, Field&)>& leaf);

/// A job in which every optional table exists and every list of tables has one element; for
/// documentation.
JobConfig full_job();

/// Every key that is no table, dotted, lists without an index: what `--set` and shell completion
/// know.
std::vector<std::string> all_job_keys();

/// `key` without the indices of lists.
std::string without_indices(std::string_view key);

}  // namespace thimble::job
