#include "launcher/job/walk_fields.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/base/text.h"
#include "optim/registry.h"

namespace thimble::job {
namespace {

template <typename... Fs>
struct Overloaded : Fs... {
  using Fs::operator()...;
};
template <typename... Fs>
Overloaded(Fs...) -> Overloaded<Fs...>;

std::string number_text(double value) {
  return fmt::format("{:.10g}", value);
}

bool is_bare_key(std::string_view key) {
  return !key.empty() && std::all_of(key.begin(), key.end(), [](unsigned char c) {
    return c == '_' || c == '-' || (c < 0x80 && std::isalnum(c) != 0);
  });
}

std::string list_text(const std::vector<std::string>& parts) {
  return fmt::format("[{}]", fmt::join(parts, ", "));
}

std::string inline_table_text(const TableValue& table) {
  std::vector<std::string> parts;
  table.visit([&](Field& field) {
    const std::string text = value_text(field);
    if (!text.empty()) parts.push_back(fmt::format("{} = {}", field.name, text));
  });
  return fmt::format("{{ {} }}", fmt::join(parts, ", "));
}

std::string map_text(const std::map<std::string, std::string>& map) {
  if (map.empty()) return {};
  std::vector<std::string> parts;
  for (const auto& [key, value] : map) {
    parts.push_back(
        fmt::format("{} = {}", is_bare_key(key) ? key : toml_string(key), toml_string(value)));
  }
  return fmt::format("{{ {} }}", fmt::join(parts, ", "));
}

void walk(const std::string& prefix, Field& field,
          const std::function<void(const std::string&, Field&)>& leaf) {
  const std::string key =
      prefix.empty() ? std::string(field.name) : fmt::format("{}.{}", prefix, field.name);
  if (const auto* table = std::get_if<TableValue>(&field.value)) {
    if (table->present()) table->visit([&](Field& inner) { walk(key, inner, leaf); });
  } else if (const auto* list = std::get_if<TableListValue>(&field.value)) {
    for (std::size_t i = 0; i < list->size(); ++i) {
      list->visit(i, [&](Field& inner) { walk(fmt::format("{}[{}]", key, i), inner, leaf); });
    }
  } else {
    leaf(key, field);
  }
}

void create_all(Field& field) {
  if (const auto* table = std::get_if<TableValue>(&field.value)) {
    table->create();
    table->visit(create_all);
  } else if (const auto* list = std::get_if<TableListValue>(&field.value)) {
    list->append();
    list->visit(0, create_all);
  }
}

}  // namespace

bool Range::contains(double value) const {
  const bool above_min = min_open ? value > min : value >= min;
  const bool below_max = max_open ? value < max : value <= max;
  return above_min && below_max;
}

std::string Range::text() const {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const std::string low = fmt::format("{} {}", min_open ? ">" : ">=", number_text(min));
  const std::string high = fmt::format("{} {}", max_open ? "<" : "<=", number_text(max));
  if (min == -kInfinity) return max == kInfinity ? "" : high;
  if (max == kInfinity) return low;
  if (!min_open && !max_open) return fmt::format("{} to {}", number_text(min), number_text(max));
  return fmt::format("{} and {}", low, high);
}

std::string toml_string(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (byte < 0x20 || byte == 0x7F) {
      out += fmt::format("\\u{:04X}", byte);
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string float_text(double value) {
  std::string text = fmt::format("{}", value);
  const std::size_t exponent = text.find('e');
  if (exponent == std::string::npos)
    return text.find('.') == std::string::npos ? text + ".0" : text;
  std::size_t digits = exponent + 1;
  if (text[digits] == '+') text.erase(digits, 1);
  if (text[digits] == '-') ++digits;
  while (text[digits] == '0' && digits + 1 < text.size()) text.erase(digits, 1);
  return text;
}

std::string value_text(const Field& field) {
  return std::visit(
      Overloaded{[](const bool* value) -> std::string { return *value ? "true" : "false"; },
                 [](const std::int64_t* value) { return fmt::format("{}", *value); },
                 [](const double* value) { return float_text(*value); },
                 [](const std::string* value) {
                   return value->empty() ? std::string() : toml_string(*value);
                 },
                 [](const std::optional<std::int64_t>* value) {
                   return value->has_value() ? fmt::format("{}", **value) : std::string();
                 },
                 [](const std::optional<double>* value) {
                   return value->has_value() ? float_text(**value) : std::string();
                 },
                 [](const AutoInt* value) {
                   return value->is_auto() ? toml_string("auto") : fmt::format("{}", *value->value);
                 },
                 [](const AutoBytes* value) {
                   return toml_string(value->is_auto() ? "auto" : format_size(*value->value));
                 },
                 [](const ByteSize* value) { return toml_string(format_size(*value)); },
                 [](const std::vector<std::string>* list) {
                   std::vector<std::string> parts;
                   for (const std::string& text : *list) parts.push_back(toml_string(text));
                   return list_text(parts);
                 },
                 [](const std::array<double, 2>* pair) {
                   return fmt::format("[{}, {}]", float_text((*pair)[0]), float_text((*pair)[1]));
                 },
                 [](const std::map<std::string, std::string>* map) { return map_text(*map); },
                 [](const ChoiceValue& value) { return toml_string(value.names[value.get()]); },
                 [](const TableValue& table) {
                   return table.present() ? inline_table_text(table) : std::string();
                 },
                 [](const TableListValue&) { return std::string(); }},
      field.value);
}

void walk_fields(JobConfig& job, const std::function<void(const std::string&, Field&)>& leaf) {
  visit_fields([&](Field& field) { walk("", field, leaf); }, job);
}

JobConfig full_job() {
  JobConfig job;
  visit_fields(create_all, job);
  return job;
}

std::string without_indices(std::string_view key) {
  std::string out;
  bool inside = false;
  for (const char c : key) {
    if (c == '[') inside = true;
    if (!inside) out += c;
    if (c == ']') inside = false;
  }
  return out;
}

const std::vector<std::string_view>& names_of_optimizers() {
  static const std::vector<std::string_view> kNames = [] {
    std::vector<std::string_view> names;
    for (const OptimizerEntry& e : optimizer_entries()) names.push_back(e.name);
    return names;
  }();
  return kNames;
}

std::vector<std::string> all_job_keys() {
  std::vector<std::string> keys;
  JobConfig job = full_job();
  walk_fields(job, [&](const std::string& key, Field&) { keys.push_back(without_indices(key)); });
  return keys;
}

}  // namespace thimble::job
