#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <cmath>

#include "core/base/text.h"
#include "launcher/job/toml_tree.h"

namespace thimble::job::internal {
namespace {

using Problem = std::optional<std::string>;  // text after "key = value: "

std::string expected(std::string_view what, const toml::node& node) {
  return fmt::format("expected {}, found {}", what, type_text(node));
}

Problem check_range(const Field& field, double value) {
  if (field.range.contains(value)) return std::nullopt;
  return fmt::format("allowed {}", field.range.text());
}

Problem read_int(const toml::node& node, std::string_view what, std::int64_t& out) {
  if (const auto* integer = node.as_integer()) {
    out = integer->get();
    return std::nullopt;
  }
  if (const auto* number = node.as_floating_point()) {
    const double value = number->get();
    // 1e9 is a whole number to everybody but TOML; above 2^53 a double no longer is one.
    if (std::trunc(value) == value && std::abs(value) <= 0x1p53) {
      out = static_cast<std::int64_t>(value);
      return std::nullopt;
    }
  }
  return expected(what, node);
}

Problem read_double(const toml::node& node, double& out) {
  if (const auto* integer = node.as_integer()) {
    out = static_cast<double>(integer->get());
    return std::nullopt;
  }
  const auto* number = node.as_floating_point();
  if (number == nullptr) return expected("a number", node);
  if (!std::isfinite(number->get())) return "expected a finite number";
  out = number->get();
  return std::nullopt;
}

Problem read_string(const toml::node& node, std::string_view what, std::string& out) {
  const auto* text = node.as_string();
  if (text == nullptr) return expected(what, node);
  if (text->get().empty()) return "must not be empty";
  if (text->get().find('\0') != std::string::npos) return "must not hold a NUL byte";
  out = text->get();
  return std::nullopt;
}

/// "bf16", "fp32" with their quotes.
std::string quoted_names(std::span<const std::string_view> names) {
  std::vector<std::string> allowed;
  for (const std::string_view name : names) allowed.push_back(toml_string(name));
  return join(allowed);
}

std::string unknown_choice(std::string_view found, const Field& field,
                           std::span<const std::string_view> names) {
  std::string problem = fmt::format("unknown choice; allowed {}", quoted_names(names));
  std::vector<std::string> candidates(names.begin(), names.end());
  candidates.insert(candidates.end(), field.later.begin(), field.later.end());
  auto near = found.size() <= 64 ? nearest_spelling(found, candidates) : std::nullopt;
  // Not the "cpu" that it is spelled like.
  if (found == "gpu" && std::find(names.begin(), names.end(), "cuda") != names.end()) near = "cuda";
  if (near) problem += fmt::format("; did you mean {}?", toml_string(*near));
  return problem;
}

/// Reads one field's value by its type; `field` gives range and choices.
class ValueReader {
 public:
  ValueReader(const toml::node& node, const Field& field) : node_(node), field_(field) {}

  Problem operator()(bool* out) const {
    const auto* value = node_.as_boolean();
    if (value == nullptr) return expected("true or false", node_);
    *out = value->get();
    return std::nullopt;
  }
  Problem operator()(std::int64_t* out) const { return whole("a whole number", *out); }
  Problem operator()(double* out) const { return number(node_, *out); }
  Problem operator()(std::optional<std::int64_t>* out) const {
    std::int64_t value = 0;
    if (Problem problem = whole("a whole number", value)) return problem;
    *out = value;
    return std::nullopt;
  }
  Problem operator()(std::optional<double>* out) const {
    double value = 0;
    if (Problem problem = number(node_, value)) return problem;
    *out = value;
    return std::nullopt;
  }
  Problem operator()(AutoInt* out) const {
    if (is_auto()) {
      out->value.reset();
      return std::nullopt;
    }
    std::int64_t value = 0;
    if (Problem problem = whole("\"auto\" or a whole number", value)) return problem;
    out->value = value;
    return std::nullopt;
  }
  Problem operator()(ByteSize* out) const { return size("a size as \"5GB\" or \"20GiB\"", *out); }
  Problem operator()(AutoBytes* out) const {
    if (is_auto()) {
      out->value.reset();
      return std::nullopt;
    }
    ByteSize value;
    if (Problem problem = size("\"auto\" or a size as \"5GB\" or \"20GiB\"", value)) return problem;
    out->value = value;
    return std::nullopt;
  }
  Problem operator()(std::string* out) const {
    std::string text;
    if (Problem problem = read_string(node_, "a string", text)) return problem;
    if (!field_.choices.empty() && !is_choice(text))
      return unknown_choice(text, field_, field_.choices);
    *out = std::move(text);
    return std::nullopt;
  }
  Problem operator()(std::vector<std::string>* out) const {
    constexpr std::string_view kWhat = "a string or a list of strings";
    std::vector<std::string> list;
    const auto* array = node_.as_array();
    if (array == nullptr) {
      if (Problem problem = read_string(node_, kWhat, list.emplace_back())) return problem;
    } else {
      for (const toml::node& element : *array) {
        if (Problem problem = read_string(element, kWhat, list.emplace_back())) {
          return fmt::format("{} in the list", *problem);
        }
      }
      if (field_.required && list.empty()) return "must not be empty";
    }
    *out = std::move(list);
    return std::nullopt;
  }
  Problem operator()(std::array<double, 2>* out) const {
    const auto* array = node_.as_array();
    if (array == nullptr) return expected("a list of two numbers", node_);
    if (array->size() != 2) return fmt::format("expected two numbers, found {}", array->size());
    std::array<double, 2> pair{};
    for (std::size_t i = 0; i < 2; ++i) {
      if (Problem problem = number((*array)[i], pair[i])) {
        return fmt::format("{} for each of the two", *problem);
      }
    }
    *out = pair;
    return std::nullopt;
  }
  Problem operator()(std::map<std::string, std::string>* out) const {
    const auto* table = node_.as_table();
    if (table == nullptr) return expected("a table as { ours = \"theirs\" }", node_);
    std::map<std::string, std::string> map;
    for (const auto& [key, value] : *table) {
      const std::string name(key.str());
      if (!is_choice(name)) {
        return fmt::format("'{}': {}", printable(name),
                           unknown_choice(name, field_, field_.choices));
      }
      if (Problem problem = read_string(value, "a string", map[name])) {
        return fmt::format("'{}': {}", printable(name), *problem);
      }
    }
    *out = std::move(map);
    return std::nullopt;
  }
  Problem operator()(ChoiceValue& out) const {
    const auto* text = node_.as_string();
    if (text == nullptr) return expected("a string", node_);
    for (std::size_t i = 0; i < out.names.size(); ++i) {
      if (out.names[i] == text->get()) {
        out.set(i);
        return std::nullopt;
      }
    }
    return unknown_choice(text->get(), field_, out.names);
  }
  Problem operator()(TableValue&) const { return expected("a table", node_); }
  Problem operator()(TableListValue&) const { return expected("a list of tables", node_); }

 private:
  bool is_auto() const {
    const auto* text = node_.as_string();
    return text != nullptr && text->get() == "auto";
  }
  bool is_choice(std::string_view text) const {
    return std::find(field_.choices.begin(), field_.choices.end(), text) != field_.choices.end();
  }
  Problem whole(std::string_view what, std::int64_t& out) const {
    std::int64_t value = 0;
    if (Problem problem = read_int(node_, what, value)) return problem;
    if (Problem problem = check_range(field_, static_cast<double>(value))) return problem;
    out = value;
    return std::nullopt;
  }
  Problem number(const toml::node& node, double& out) const {
    double value = 0;
    if (Problem problem = read_double(node, value)) return problem;
    if (Problem problem = check_range(field_, value)) return problem;
    out = value;
    return std::nullopt;
  }
  Problem size(std::string_view what, ByteSize& out) const {
    const auto* text = node_.as_string();
    if (text == nullptr) return expected(what, node_);
    const auto value = parse_size(text->get());
    if (!value) return fmt::format("expected {}", what);
    if (!field_.range.contains(static_cast<double>(value->bytes))) {
      return fmt::format("allowed >= {}",
                         format_size({static_cast<std::int64_t>(field_.range.min)}));
    }
    out = *value;
    return std::nullopt;
  }

  const toml::node& node_;
  const Field& field_;
};

/// Whether `node` is one of the choices that this release refuses.
bool is_later(const toml::node& node, const Field& field) {
  const auto* text = node.as_string();
  return text != nullptr &&
         std::find(field.later.begin(), field.later.end(), text->get()) != field.later.end();
}

}  // namespace

std::string type_text(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::string:
      return "a string";
    case toml::node_type::integer:
      return "a whole number";
    case toml::node_type::floating_point:
      return "a number";
    case toml::node_type::boolean:
      return node.as_boolean()->get() ? "true" : "false";
    case toml::node_type::array:
      return node.as_array()->empty() ? "an empty list" : "a list";
    case toml::node_type::table:
      return "a table";
    default:
      return "a date or time";
  }
}

std::string node_text(const toml::node& node) {
  if (const auto* text = node.as_string()) return fmt::format("\"{}\"", printable(text->get(), 60));
  if (const auto* integer = node.as_integer()) return fmt::format("{}", integer->get());
  if (const auto* number = node.as_floating_point()) {
    return std::isfinite(number->get()) ? float_text(number->get())
                                        : fmt::format("{}", number->get());
  }
  if (const auto* value = node.as_boolean()) return value->get() ? "true" : "false";
  if (node.is_array()) return node.as_array()->empty() ? "[]" : "[...]";
  return node.is_table() ? "{...}" : "(a date or time)";
}

std::optional<std::string> read_value(const toml::node& node, const std::string& key,
                                      Field& field) {
  if (!field.released) return fmt::format("{} is not in this release", key);
  if (is_later(node, field)) {
    const auto* choice = std::get_if<ChoiceValue>(&field.value);
    return fmt::format("{} = {} is not in this release; allowed {}", key, node_text(node),
                       quoted_names(choice != nullptr ? choice->names : field.choices));
  }
  if (const Problem problem = std::visit(ValueReader(node, field), field.value)) {
    return fmt::format("{} = {}: {}", key, node_text(node), *problem);
  }
  return std::nullopt;
}

}  // namespace thimble::job::internal
