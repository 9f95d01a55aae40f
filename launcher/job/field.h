// What one key of a job is: its name, meaning, type, range, choices, whether this release has it,
// and what a change of it means for a resumed run. A table of the job (launcher/job/tables) is a
// struct and, beside it, visit_fields(), which gives a visitor a Field for each of its members.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "launcher/job/sizes.h"
#include "launcher/job/spelling.h"

namespace thimble::job {

struct Field;
using FieldVisitor = std::function<void(Field&)>;

/// Visits every key of one table.
using TableVisit = std::function<void(const FieldVisitor&)>;

/// An enumeration of any type, seen as an index into its spellings.
struct ChoiceValue {
  std::span<const std::string_view> names;
  std::function<std::size_t()> get;
  std::function<void(std::size_t)> set;
};

/// A nested table: always present, or optional (then `create` makes it).
struct TableValue {
  bool optional = false;
  bool is_inline = false;  // written { key = value } inside its parent
  std::function<bool()> present;
  std::function<void()> create;
  TableVisit visit;
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

/// The numbers a field takes; the range applies to every element of a list.
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
  kTemplate,   // as kInput, "tokenizer" or the name of a built-in chat template
  kCache,      // relative to the job file, made when missing
  kOutput,     // relative to the working directory, made when missing
};

constexpr Range at_least(double min) {
  return {.min = min};
}
constexpr Range above(double min) {
  return {.min = min, .min_open = true};
}
inline constexpr Range kShare{.min = 0, .max = 1};

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
  /// A command that lists the choices, if they are many: help and schema name it instead.
  std::string_view choices_listed_by{};
  std::vector<std::string_view> later{};  // further choices, which this release refuses
  bool required = false;
  bool released = true;  // false: the whole key is refused in this release
  PathKind path = PathKind::kNone;
  ResumeClass resume = ResumeClass::kRefused;
};

/// Builders of FieldValue for enumerations, tables and lists of tables.
template <typename Enum>
ChoiceValue choice(Enum& value) {
  return {.names = kChoiceNames<Enum>,
          .get = [&value] { return choice_index(value); },
          .set = [&value](std::size_t index) { value = kSpellings<Enum>[index].value; }};
}

template <typename Enum>
ChoiceValue choice(Auto<Enum>& value) {
  return {.names = kAutoNames<Enum>,
          .get = [&value] { return value.is_auto() ? 0 : choice_index(*value.value) + 1; },
          .set =
              [&value](std::size_t index) {
                value.value.reset();
                if (index > 0) value.value = kSpellings<Enum>[index - 1].value;
              }};
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

}  // namespace thimble::job
