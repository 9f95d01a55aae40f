#include "launcher/job/reader.h"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <limits>

#include "core/base/text.h"
#include "launcher/job/foreign_keys.h"
#include "launcher/job/toml_tree.h"

namespace thimble::job {
namespace {

using internal::read_value;

/// Longer names get no suggestion: they are no misspelling of a key.
constexpr std::size_t kMaxHinted = 64;

/// "[optimizer]", "[[data.train]]"; "the job" for the top level.
std::string table_label(std::string_view table) {
  if (table.empty()) return "the top level";
  bool is_list = false;
  JobConfig job = full_job();
  walk_fields(job, [&](const std::string& key, Field&) {
    is_list = is_list || key.starts_with(fmt::format("{}[0].", table));
  });
  return is_list ? fmt::format("[[{}]]", table) : fmt::format("[{}]", table);
}

std::string where_it_lives(std::string_view dotted, std::string_view table) {
  const std::size_t dot = dotted.rfind('.');
  const std::string_view home = dot == std::string_view::npos ? "" : dotted.substr(0, dot);
  const std::string_view name = dot == std::string_view::npos ? dotted : dotted.substr(dot + 1);
  const std::vector<std::string> keys = all_job_keys();
  if (std::find(keys.begin(), keys.end(), dotted) == keys.end()) return table_label(dotted);
  if (home == table) return fmt::format("'{}'", name);
  return fmt::format("'{}' {} {}", name, home.empty() ? "at" : "in", table_label(home));
}

/// The dotted key of the outermost table that has a key `name`; nothing if two tables at the same
/// depth have one.
std::optional<std::string> other_home(std::string_view name) {
  std::optional<std::string> home;
  std::ptrdiff_t home_depth = std::numeric_limits<std::ptrdiff_t>::max();
  for (const std::string& key : all_job_keys()) {
    const std::size_t dot = key.rfind('.');
    if ((dot == std::string::npos ? key : key.substr(dot + 1)) != name) continue;
    const std::ptrdiff_t depth = std::count(key.begin(), key.end(), '.');
    // What [[data.eval]] has as well is looked for in [[data.train]].
    if (depth == home_depth && !key.starts_with("data.eval.")) home.reset();
    if (depth < home_depth) {
      home = key;
      home_depth = depth;
    }
  }
  return home;
}

/// What to say after "unknown key 'x' in [table]": where that key lives in Thimble, or the nearest
/// spelling.
std::string unknown_key_hint(std::string_view table, std::string_view key,
                             std::span<const std::string> known) {
  if (const auto target = foreign_key(key)) {
    return fmt::format("; Thimble calls it {}", where_it_lives(*target, table));
  }
  if (const auto advice = foreign_advice(key)) return fmt::format("; {}", *advice);
  if (const auto home = other_home(key)) {
    const std::size_t dot = home->rfind('.');
    const std::string owner = dot == std::string::npos ? "" : home->substr(0, dot);
    return fmt::format("; it belongs {} {}", owner.empty() ? "at" : "in", table_label(owner));
  }
  if (const auto near = nearest_spelling(key, known))
    return fmt::format("; did you mean '{}'?", *near);
  return fmt::format("; known: {}", join(known));
}

Place place_at(const toml::source_region& region) {
  return {.line = std::max<std::int64_t>(1, region.begin.line),
          .column = std::max<std::int64_t>(1, region.begin.column),
          .override_label = ""};
}

class Reader {
 public:
  explicit Reader(JobDraft& draft) : draft_(draft) {}

  void read_table(const toml::table& table, const std::string& key, const TableVisit& visit) {
    std::vector<std::string> known;
    visit([&](Field& field) {
      known.emplace_back(field.name);
      read_field(table, key, field);
    });
    for (const auto& [name, node] : table) {
      if (std::find(known.begin(), known.end(), name.str()) != known.end()) continue;
      if (draft_.errors.full()) return;
      const std::string plain = without_indices(key);
      const bool is_unknown_table = plain.empty() && (node.is_table() || is_table_list(node));
      draft_.errors.add(place_at(name.source()),
                        is_unknown_table ? unknown_table_message(name.str())
                                         : unknown_key_message(plain, name.str(), known));
    }
  }

 private:
  void read_field(const toml::table& parent, const std::string& prefix, Field& field) {
    const std::string key =
        prefix.empty() ? std::string(field.name) : fmt::format("{}.{}", prefix, field.name);
    const auto found = parent.find(field.name);
    const toml::node* node = found == parent.end() ? nullptr : &found->second;
    if (node != nullptr) draft_.places.try_emplace(key, place_at(found->first.source()));
    auto* table = std::get_if<TableValue>(&field.value);
    auto* list = std::get_if<TableListValue>(&field.value);
    if (node == nullptr) {
      if (table != nullptr && !table->optional) return read_table(toml::table{}, key, table->visit);
      if (field.required) missing(prefix, field, list != nullptr);
    } else if (table != nullptr && field.released && node->is_table()) {
      table->create();
      draft_.valid.insert(key);
      read_table(*node->as_table(), key, table->visit);
    } else if (list != nullptr && field.released && is_table_list(*node)) {
      read_list(*node->as_array(), key, *list);
    } else if (const auto problem = read_value(*node, without_indices(key), field)) {
      draft_.errors.add(draft_.place_of(key), *problem);
    } else {
      draft_.valid.insert(key);
    }
  }

  void read_list(const toml::array& array, const std::string& key, const TableListValue& list) {
    draft_.valid.insert(key);
    for (std::size_t i = 0; i < array.size() && !draft_.errors.full(); ++i) {
      const std::string element = fmt::format("{}[{}]", key, i);
      list.append();
      const auto origin = draft_.places.find(key);
      const bool overridden =
          origin != draft_.places.end() && !origin->second.override_label.empty();
      if (!overridden) draft_.places.emplace(element, place_at(array[i].source()));
      read_table(*array[i].as_table(), element,
                 [&](const FieldVisitor& visitor) { list.visit(i, visitor); });
    }
  }

  static bool is_table_list(const toml::node& node) {
    const auto* array = node.as_array();
    return array != nullptr && !array->empty() &&
           std::all_of(array->begin(), array->end(),
                       [](const toml::node& element) { return element.is_table(); });
  }

  void missing(const std::string& prefix, const Field& field, bool is_list) {
    const std::string plain = without_indices(prefix);
    const std::string what =
        is_list ? fmt::format("missing table [[{}.{}]]", plain, field.name)
                : fmt::format("missing key '{}' in {}", field.name, table_label(plain));
    draft_.errors.add(draft_.place_of(prefix), what);
  }

  JobDraft& draft_;
};

}  // namespace

void JobErrors::add(const Place& place, std::string message) {
  if (!full()) errors_.push_back({place, std::move(message)});
}

std::string JobErrors::text() const {
  std::vector<Entry> sorted = errors_;
  std::stable_sort(sorted.begin(), sorted.end(), [](const Entry& a, const Entry& b) {
    const auto order = [](const Place& p) {
      return std::tuple(!p.override_label.empty(), p.line, p.column);
    };
    return order(a.place) < order(b.place);
  });
  std::vector<std::string> lines;
  for (const Entry& entry : sorted) {
    const Place& place = entry.place;
    lines.push_back(
        place.override_label.empty()
            ? fmt::format("{}:{}:{}: error: {}", file_, place.line, place.column, entry.message)
            : fmt::format("{}: error: {}", place.override_label, entry.message));
  }
  if (full()) lines.push_back(fmt::format("{}: more errors are not shown", file_));
  return join(lines, "\n");
}

Place JobDraft::place_of(std::string_view key) const {
  for (std::string_view at = key; !at.empty();) {
    if (const auto found = places.find(std::string(at)); found != places.end())
      return found->second;
    const std::size_t cut = at.find_last_of(".[");
    at = cut == std::string_view::npos ? std::string_view{} : at.substr(0, cut);
  }
  return {};
}

std::string unknown_key_message(std::string_view table, std::string_view key,
                                std::span<const std::string> known) {
  const std::string start = fmt::format("unknown key '{}' {} {}", printable(key),
                                        table.empty() ? "at" : "in", table_label(table));
  return key.size() > kMaxHinted ? start : start + unknown_key_hint(table, key, known);
}

std::string unknown_table_message(std::string_view table) {
  const std::string start = fmt::format("unknown table [{}]", printable(table));
  if (table.size() > kMaxHinted) return start;
  if (const auto target = foreign_table(table))
    return fmt::format("{}; Thimble calls it [{}]", start, *target);
  if (const auto advice = foreign_advice(table)) return fmt::format("{}; {}", start, *advice);
  std::vector<std::string> known;
  JobConfig job;
  visit_fields(
      [&](Field& field) {
        if (std::holds_alternative<TableValue>(field.value)) known.emplace_back(field.name);
      },
      job);
  if (const auto near = nearest_spelling(table, known))
    return fmt::format("{}; did you mean [{}]?", start, *near);
  return fmt::format("{}; known: {}", start, join(known));
}

void read_tables(std::string_view text, std::span<const JobOverride> overrides,
                 const TableVisit& visit, JobDraft& draft) {
  if (auto problem = internal::find_text_problem(text)) {
    draft.errors.add(problem->place, std::move(problem->message));
    draft.syntax_error = true;
    return;
  }
  toml::table root;
  try {
    root = toml::parse(text, draft.errors.file());
  } catch (const toml::parse_error& error) {
    draft.errors.add(place_at(error.source()), printable(error.description(), 300));
    draft.syntax_error = true;
    return;
  }
  internal::apply_overrides(root, overrides, draft);
  Reader(draft).read_table(root, "", visit);
}

JobDraft read_job(std::string_view text, const std::string& file,
                  std::span<const JobOverride> overrides) {
  JobDraft draft(file);
  read_tables(
      text, overrides, [&](const FieldVisitor& visitor) { visit_fields(visitor, draft.config); },
      draft);
  return draft;
}

}  // namespace thimble::job
