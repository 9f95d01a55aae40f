#include "launcher/job/write_job.h"

#include <fmt/format.h>

#include <set>

#include "launcher/job/walk_fields.h"

namespace thimble::job {
namespace {

/// Walks the tables of a job in the order of a TOML file: the keys of a table before its
/// sub-tables.
class TomlWriter {
 public:
  virtual ~TomlWriter() = default;

  std::string write(const TableVisit& visit) {
    table("", visit);
    return std::move(out_);
  }

 protected:
  virtual void header(const std::string& text, std::string_view doc) = 0;
  virtual void line(const std::string& key, Field& field) = 0;

  std::string out_;

 private:
  void table(const std::string& prefix, const TableVisit& visit) {
    const auto key_of = [&](const Field& field) {
      return prefix.empty() ? std::string(field.name) : fmt::format("{}.{}", prefix, field.name);
    };
    visit([&](Field& field) {
      const auto* inner = std::get_if<TableValue>(&field.value);
      const bool is_line = (inner == nullptr || inner->is_inline) &&
                           !std::holds_alternative<TableListValue>(field.value);
      if (is_line && field.released) line(key_of(field), field);
    });
    visit([&](Field& field) {
      if (!field.released) return;
      const std::string key = key_of(field);
      if (const auto* inner = std::get_if<TableValue>(&field.value);
          inner != nullptr && !inner->is_inline) {
        header(fmt::format("[{}]", key), field.doc);
        table(key, inner->visit);
      } else if (const auto* list = std::get_if<TableListValue>(&field.value)) {
        for (std::size_t i = 0; i < list->size(); ++i) {
          header(fmt::format("[[{}]]", key), field.doc);
          table(key, [&](const FieldVisitor& visitor) { list->visit(i, visitor); });
        }
      }
    });
  }
};

class ResolvedWriter : public TomlWriter {
 protected:
  void header(const std::string& text, std::string_view) override {
    out_ += fmt::format("\n{}\n", text);
  }
  void line(const std::string&, Field& field) override {
    const std::string value = value_text(field);
    if (!value.empty()) out_ += fmt::format("{} = {}\n", field.name, value);
  }
};

class CommentedWriter : public TomlWriter {
 public:
  explicit CommentedWriter(std::set<std::string> chosen) : chosen_(std::move(chosen)) {}

 protected:
  void header(const std::string& text, std::string_view doc) override {
    out_ += fmt::format("\n{:<34} # {}\n", text, doc);
  }
  void line(const std::string& key, Field& field) override {
    const std::string value = value_text(field);
    if (value.empty()) return;
    const std::string_view mark = chosen_.contains(key) ? "" : "# ";
    // The first clause suffices here: `thimble help job` shows the rest.
    const std::string_view doc = field.doc.substr(0, field.doc.find(';'));
    out_ += fmt::format("{:<34} # {}\n", fmt::format("{}{} = {}", mark, field.name, value), doc);
  }

 private:
  std::set<std::string> chosen_;
};

}  // namespace

std::string tables_text(const TableVisit& visit) {
  return ResolvedWriter().write(visit);
}

std::string resolved_job_text(const JobConfig& job) {
  JobConfig copy = job;
  return tables_text([&](const FieldVisitor& visitor) { visit_fields(visitor, copy); });
}

std::string commented_job_text(const InitValues& values) {
  JobConfig job;
  (values.from_scratch ? job.model.config : job.model.path) = values.model;
  job.model.tokenizer = values.tokenizer;
  job.data.seq_len = values.seq_len;
  job.data.train.emplace_back().path = values.data;
  job.data.train.back().fields = values.fields;
  if (values.num_epochs) {
    job.training.num_epochs = values.num_epochs;
  } else {
    job.training.max_steps = values.max_steps;
  }
  job.training.global_batch_size = values.global_batch_size;
  job.optimizer.lr = values.lr;
  job.lr_scheduler.warmup_ratio = kDefaultWarmupRatio;
  std::set<std::string> chosen{
      "model.path",      "model.config",       "model.tokenizer",     "data.seq_len",
      "data.train.path", "training.max_steps", "training.num_epochs", "training.global_batch_size",
      "optimizer.lr"};
  if (!values.fields.empty()) chosen.insert("data.train.fields");
  std::string text =
      "# A job for Thimble. `thimble plan` says what it needs, `thimble train` runs it.\n"
      "# Commented keys show their defaults; `thimble help job` explains every key.\n\n";
  return text + CommentedWriter(chosen).write(
                    [&](const FieldVisitor& visitor) { visit_fields(visitor, job); });
}

}  // namespace thimble::job
