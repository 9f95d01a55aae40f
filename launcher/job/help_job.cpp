#include "launcher/job/help_job.h"

#include <fmt/format.h>

#include "core/base/error.h"
#include "core/base/text.h"
#include "launcher/job/load_job.h"
#include "launcher/job/walk_fields.h"

namespace thimble::job {
namespace {

std::string choices_text(const Field& field, std::span<const std::string_view> names) {
  std::string text = fmt::format("{}", fmt::join(names, " | "));
  if (!field.later.empty())
    text += fmt::format(" (not in this release: {})", fmt::join(field.later, ", "));
  return text;
}

/// What a field takes: "number > 0", "bf16 | fp32", "auto | whole number >= 1".
std::string allowed_text(const Field& field) {
  const FieldValue& value = field.value;
  if (const auto* choice = std::get_if<ChoiceValue>(&value))
    return choices_text(field, choice->names);
  if (std::holds_alternative<std::map<std::string, std::string>*>(value)) {
    return fmt::format("table with {}", choices_text(field, field.choices));
  }
  if (!field.choices_listed_by.empty())
    return fmt::format("a name that `{}` lists", field.choices_listed_by);
  if (!field.choices.empty()) return choices_text(field, field.choices);
  std::string text;
  if (std::holds_alternative<bool*>(value)) {
    text = "true | false";
  } else if (std::holds_alternative<std::string*>(value)) {
    text = "text";
  } else if (std::holds_alternative<std::vector<std::string>*>(value)) {
    text = "text or list of texts";
  } else if (std::holds_alternative<std::array<double, 2>*>(value)) {
    text = "two numbers";
  } else if (std::holds_alternative<ByteSize*>(value)) {
    return "size";
  } else if (std::holds_alternative<AutoBytes*>(value)) {
    return "auto | size";
  } else if (std::holds_alternative<TableValue>(value)) {
    return "table";
  } else if (std::holds_alternative<TableListValue>(value)) {
    return "list of tables";
  } else if (std::holds_alternative<double*>(value) ||
             std::holds_alternative<std::optional<double>*>(value)) {
    text = "number";
  } else {
    text = std::holds_alternative<AutoInt*>(value) ? "auto | whole number" : "whole number";
  }
  if (const std::string range = field.range.text(); !range.empty()) text += " " + range;
  return text;
}

std::string default_of(const Field& field) {
  if (field.required) return "(set)";
  if (!field.default_text.empty()) return std::string(field.default_text);
  const bool is_inline = std::holds_alternative<TableValue>(field.value);
  const std::string text = is_inline ? "" : value_text(field);
  return text.empty() ? "not set" : text;
}

std::string_view resume_text(ResumeClass resume) {
  switch (resume) {
    case ResumeClass::kRefused:
      return "refused";
    case ResumeClass::kContinues:
      return "continues";
    case ResumeClass::kDuration:
      return "continues, learning-rate schedule recomputed";
    case ResumeClass::kModelContent:
      return "continues if the model is the same";
    case ResumeClass::kDataContent:
      return "continues if the data is the same";
  }
  return "";
}

struct TableDoc {
  std::string key;
  bool is_list = false;
  Field field;
  std::vector<Field> keys;  // tables among them only where they are written inline

  std::string label() const {
    return is_list ? fmt::format("[[{}]]", key) : fmt::format("[{}]", key);
  }
};

/// Every table of `job`, in the order of the file; the first is the top level. The fields point
/// into `job`.
std::vector<TableDoc> tables_of(JobConfig& job) {
  std::vector<TableDoc> tables;
  const std::function<void(TableDoc, const TableVisit&)> add = [&](TableDoc doc,
                                                                   const TableVisit& visit) {
    const std::string prefix = doc.key;
    const std::size_t index = tables.size();
    tables.push_back(std::move(doc));
    visit([&](Field& field) {
      const std::string key =
          prefix.empty() ? std::string(field.name) : fmt::format("{}.{}", prefix, field.name);
      if (auto* table = std::get_if<TableValue>(&field.value)) {
        if (table->is_inline) tables[index].keys.push_back(field);
        add({.key = key, .field = field, .keys = {}}, table->visit);
      } else if (auto* list = std::get_if<TableListValue>(&field.value)) {
        add({.key = key, .is_list = true, .field = field, .keys = {}},
            [list](const FieldVisitor& visitor) { list->visit(0, visitor); });
      } else {
        tables[index].keys.push_back(field);
      }
    });
  };
  Field top{.name = "", .doc = "The job", .value = static_cast<bool*>(nullptr)};
  add({.key = "", .field = top, .keys = {}},
      [&](const FieldVisitor& visitor) { visit_fields(visitor, job); });
  return tables;
}

std::string released_mark(const Field& field) {
  return field.released ? "" : " Not in this release.";
}

std::string key_help(const Field& field) {
  const std::string unit = field.unit.empty() ? "" : fmt::format(", in {}", field.unit);
  return fmt::format("  {} = {}\n      {}.{}\n      Takes: {}{}\n", field.name, default_of(field),
                     field.doc, released_mark(field), allowed_text(field), unit);
}

std::string table_help(const TableDoc& table) {
  std::string text = fmt::format("{}  {}.{}\n\n", table.key.empty() ? "Top level" : table.label(),
                                 table.field.doc, released_mark(table.field));
  for (const Field& field : table.keys) text += key_help(field);
  return text;
}

std::string overview(const std::vector<TableDoc>& tables) {
  std::string text =
      "A job is a TOML file. Values shown are defaults; (set) marks what a job must say.\n"
      "`thimble help job.TABLE` and `thimble help job.TABLE.KEY` say more.\n\nTables\n";
  for (const TableDoc& table : tables) {
    if (!table.key.empty()) text += fmt::format("  {:<20} {}\n", table.label(), table.field.doc);
  }
  return text + "\n" + table_help(tables.front());
}

constexpr std::string_view kMarkdownStart = R"(# The job file

<!-- Generated from launcher/job/tables by the tests; do not edit. -->

A job is a TOML file: `thimble train job.toml`. An unknown key, a wrong type or a value out of range is an error, and all
errors are reported at once with line and column.

- **Precedence.** `--set` overrides a `THIMBLE_*` environment variable, which overrides the job file. Each override is printed.
- **Variables.** `THIMBLE_` and the key in upper case with `_` for `.`: `optimizer.lr` is `THIMBLE_OPTIMIZER_LR`.
  Every key that is not a list has one; an empty variable counts as not set. Further variables stand at the end of this page.
- **`--set key=value`.** `--set optimizer.lr=1e-4`; text needs no quotes; `--set training.max_steps=` takes a key out of
  the job, so that its default holds.
- **Paths** are relative to the job file, `output_dir` to the working directory. A leading `~` and `${VAR}` expand.
- **Sizes** are `"5GB"` (decimal) or `"20GiB"` (binary): B, kB, MB, GB, TB, KiB, MiB, GiB, TiB.
- **Resume.** The last column says what a changed value means for a run that already has checkpoints.

Editors that know JSON Schema complete and check jobs with `docs/job.schema.json`.
)";

std::string code(std::string_view text) {
  return fmt::format("`{}`", text);
}

/// Text inside a Markdown table: a bar would end the cell.
std::string cell(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

}  // namespace

std::string keys_help(const TableVisit& visit) {
  std::string text;
  visit([&](Field& field) { text += key_help(field); });
  return text;
}

std::vector<std::string> all_job_tables() {
  JobConfig job = full_job();
  std::vector<std::string> keys;
  for (const TableDoc& table : tables_of(job)) {
    if (!table.key.empty()) keys.push_back(table.key);
  }
  return keys;
}

std::string job_help_text(std::string_view topic) {
  JobConfig job = full_job();
  const std::vector<TableDoc> tables = tables_of(job);
  if (topic.empty()) return overview(tables);
  std::vector<std::string> known;
  for (const TableDoc& table : tables) {
    if (table.key == topic) return table_help(table);
    if (!table.key.empty()) known.push_back(table.key);
    for (const Field& field : table.keys) {
      const std::string key =
          table.key.empty() ? std::string(field.name) : fmt::format("{}.{}", table.key, field.name);
      if (key == topic) return key_help(field);
      known.push_back(key);
    }
  }
  const auto near = topic.size() <= 64 ? nearest_spelling(topic, known) : std::nullopt;
  throw_user("help job.{}: no such table or key{}", printable(topic),
             near ? fmt::format("; did you mean job.{}?", *near)
                  : "; `thimble help job` lists the tables");
}

std::string job_markdown() {
  JobConfig job = full_job();
  std::string text(kMarkdownStart);
  for (const TableDoc& table : tables_of(job)) {
    const std::string title = table.key.empty() ? "Top level" : code(table.label());
    text += fmt::format("\n## {}\n\n{}.{}\n\n", title, table.field.doc, released_mark(table.field));
    text += "| key | default | takes | meaning | changed on resume |\n|---|---|---|---|---|\n";
    for (const Field& field : table.keys) {
      const std::string unit = field.unit.empty() ? "" : fmt::format(", {}", field.unit);
      const std::string plain = default_of(field);
      const bool is_code = !field.required && field.default_text.empty() && plain != "not set";
      text += fmt::format("| {} | {} | {}{} | {}.{} | {} |\n", code(field.name),
                          is_code ? code(plain) : cell(plain), cell(allowed_text(field)), unit,
                          cell(field.doc), released_mark(field), resume_text(field.resume));
    }
  }
  text += "\n## Other variables\n\n| variable | meaning |\n|---|---|\n";
  for (const OtherVariable& variable : other_variables()) {
    text += fmt::format("| {} | {} |\n", code(variable.name), variable.doc);
  }
  return text;
}

}  // namespace thimble::job
