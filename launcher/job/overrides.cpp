// Overrides edit the TOML tree before it is read, so that they meet the same checks as the file.
#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>

#include "core/base/text.h"
#include "launcher/job/toml_tree.h"

namespace thimble::job::internal {
namespace {

std::vector<std::string> split(std::string_view key) {
  std::vector<std::string> parts;
  std::size_t begin = 0;
  while (true) {
    const std::size_t dot = key.find('.', begin);
    parts.emplace_back(key.substr(begin, dot == std::string_view::npos ? dot : dot - begin));
    if (dot == std::string_view::npos) return parts;
    begin = dot + 1;
  }
}

/// What --set may name, by dotted key: every field outside lists of tables, and the lists and
/// tables themselves.
struct Targets {
  Targets() {
    visit_fields([this](Field& field) { collect("", field); }, job);
  }

  void collect(const std::string& prefix, Field& field) {
    const std::string key =
        prefix.empty() ? std::string(field.name) : fmt::format("{}.{}", prefix, field.name);
    fields.emplace(key, field);
    children[prefix].emplace_back(field.name);
    if (auto* table = std::get_if<TableValue>(&field.value)) {
      table->create();
      table->visit([&](Field& inner) { collect(key, inner); });
    }
  }

  JobConfig job;
  std::map<std::string, Field> fields;
  std::map<std::string, std::vector<std::string>> children;
};

bool takes_raw_text(const FieldValue& value) {
  return std::holds_alternative<std::string*>(value) ||
         std::holds_alternative<ChoiceValue>(value) || std::holds_alternative<AutoBytes*>(value) ||
         std::holds_alternative<ByteSize*>(value) ||
         std::holds_alternative<std::vector<std::string>*>(value);
}

/// The override's text as a TOML value under the key "v"; text that is no TOML is a string.
toml::table parse_text(const std::string& text, const FieldValue& value) {
  const bool is_toml =
      !takes_raw_text(value) || text.front() == '"' || text.front() == '\'' ||
      (text.front() == '[' && std::holds_alternative<std::vector<std::string>*>(value));
  const std::string document = fmt::format("v = {}", text);
  if (is_toml && !find_text_problem(document)) {
    try {
      toml::table parsed = toml::parse(document);
      if (parsed.size() == 1 && parsed.contains("v")) return parsed;
    } catch (const toml::parse_error&) {
      // Not TOML: the type check names what was expected.
    }
  }
  return toml::table{{"v", text}};
}

std::string unknown_target(const std::string& key, const Targets& targets) {
  const std::size_t dot = key.rfind('.');
  const std::string table = dot == std::string::npos ? "" : key.substr(0, dot);
  const std::string name = dot == std::string::npos ? key : key.substr(dot + 1);
  if (const auto known = targets.children.find(table); known != targets.children.end()) {
    return unknown_key_message(table, name, known->second);
  }
  if (const auto list = targets.fields.find(table);
      list != targets.fields.end() && std::holds_alternative<TableListValue>(list->second.value)) {
    return fmt::format("cannot reach into [[{}]]; edit the job, or give the whole list", table);
  }
  return unknown_table_message(table);
}

/// The table that holds the last part of `parts`, made on the way; null if something else is in the
/// way.
toml::table* parent_table(toml::table& root, const std::vector<std::string>& parts) {
  toml::table* at = &root;
  for (std::size_t i = 0; i + 1 < parts.size() && at != nullptr; ++i) {
    if (!at->contains(parts[i])) at->insert(parts[i], toml::table{});
    at = at->get(parts[i])->as_table();
  }
  return at;
}

}  // namespace

void apply_overrides(toml::table& root, std::span<const JobOverride> overrides, JobDraft& draft) {
  if (overrides.empty()) return;
  const Targets targets;
  std::int64_t order = 0;
  for (const JobOverride& change : overrides) {
    const Place place{.line = ++order, .override_label = printable(change.label, 200)};
    const auto target = targets.fields.find(change.key);
    if (target == targets.fields.end()) {
      draft.errors.add(place, unknown_target(change.key, targets));
      continue;
    }
    const std::vector<std::string> parts = split(change.key);
    toml::table* parent = parent_table(root, parts);
    if (parent == nullptr) continue;  // the table itself has a wrong type, which the reader reports
    const toml::node* before = parent->get(parts.back());
    const std::string was =
        before == nullptr ? "was not set" : fmt::format("was {}", node_text(*before));
    std::string now = "its default";
    if (change.text.empty()) {
      parent->erase(parts.back());
      draft.places.erase(change.key);
    } else {
      toml::table parsed = parse_text(change.text, target->second.value);
      now = node_text(*parsed.get("v"));
      parent->insert_or_assign(parts.back(), std::move(*parsed.get("v")));
      draft.places.insert_or_assign(change.key, place);
    }
    draft.applied.push_back(
        fmt::format("{} = {} ({}; {})", change.key, now, place.override_label, was));
  }
}

}  // namespace thimble::job::internal
