#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "launcher/job/help_job.h"
#include "launcher/job/walk_fields.h"

namespace thimble::job {
namespace {

using Json = nlohmann::ordered_json;

Json names_of(std::span<const std::string_view> names) {
  Json list = Json::array();
  for (const std::string_view name : names) list.push_back(name);
  return list;
}

/// Whole bounds as whole numbers, so that the file reads as people write it.
Json bound(double value) {
  if (std::abs(value) < 0x1p53 && static_cast<double>(static_cast<std::int64_t>(value)) == value) {
    return static_cast<std::int64_t>(value);
  }
  return value;
}

Json number(const Field& field, std::string_view type) {
  Json schema{{"type", type}};
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (field.range.min > -kInfinity)
    schema[field.range.min_open ? "exclusiveMinimum" : "minimum"] = bound(field.range.min);
  if (field.range.max < kInfinity)
    schema[field.range.max_open ? "exclusiveMaximum" : "maximum"] = bound(field.range.max);
  return schema;
}

Json text() {
  return Json{{"type", "string"}, {"minLength", 1}};
}

Json object_of(const TableVisit& visit);

Json auto_int(const Field& field) {
  return Json{{"anyOf", Json::array({Json{{"const", "auto"}}, number(field, "integer")})}};
}

Json size(bool allows_auto) {
  const std::string digits = "[0-9]+(\\.[0-9]+)? *([kKMGT]?B|[KMGT]iB)";
  return Json{
      {"type", "string"},
      {"pattern", allows_auto ? fmt::format("^(auto|{})$", digits) : fmt::format("^{}$", digits)}};
}

struct SchemaOf {
  const Field& field;

  Json operator()(const bool*) const { return Json{{"type", "boolean"}}; }
  Json operator()(const std::int64_t*) const { return number(field, "integer"); }
  Json operator()(const std::optional<std::int64_t>*) const { return number(field, "integer"); }
  Json operator()(const double*) const { return number(field, "number"); }
  Json operator()(const std::optional<double>*) const { return number(field, "number"); }
  Json operator()(const std::string*) const {
    const bool is_open = field.choices.empty() || !field.choices_listed_by.empty();
    return is_open ? text() : Json{{"enum", names_of(field.choices)}};
  }
  Json operator()(const AutoInt*) const { return auto_int(field); }
  Json operator()(const AutoBytes*) const { return size(true); }
  Json operator()(const ByteSize*) const { return size(false); }
  Json operator()(const std::vector<std::string>*) const {
    Json list{{"type", "array"}, {"items", text()}};
    if (field.required) list["minItems"] = 1;
    return Json{{"anyOf", Json::array({text(), list})}};
  }
  Json operator()(const std::array<double, 2>*) const {
    return Json{
        {"type", "array"}, {"items", number(field, "number")}, {"minItems", 2}, {"maxItems", 2}};
  }
  Json operator()(const std::map<std::string, std::string>*) const {
    Json properties = Json::object();
    for (const std::string_view name : field.choices) properties[std::string(name)] = text();
    return Json{{"type", "object"}, {"properties", properties}, {"additionalProperties", false}};
  }
  Json operator()(const ChoiceValue& value) const { return Json{{"enum", names_of(value.names)}}; }
  Json operator()(const TableValue& value) const { return object_of(value.visit); }
  Json operator()(const TableListValue& list) const {
    const Json items = object_of([&](const FieldVisitor& visitor) { list.visit(0, visitor); });
    return Json{{"type", "array"}, {"items", items}, {"minItems", 1}};
  }
};

bool is_table(const Field& field) {
  return std::holds_alternative<TableValue>(field.value) ||
         std::holds_alternative<TableListValue>(field.value);
}

Json object_of(const TableVisit& visit) {
  Json properties = Json::object();
  Json required = Json::array();
  visit([&](Field& field) {
    Json schema =
        field.released ? std::visit(SchemaOf{field}, field.value) : Json{{"not", Json::object()}};
    const std::string unit = field.unit.empty() ? "" : fmt::format(" ({})", field.unit);
    schema["description"] =
        fmt::format("{}{}.{}", field.doc, unit, field.released ? "" : " Not in this release.");
    if (field.released && !field.required && !is_table(field) && field.default_text.empty()) {
      // TOML of scalars and lists of numbers is JSON.
      const Json value = Json::parse(value_text(field), nullptr, false);
      if (!value.is_discarded()) schema["default"] = value;
    }
    properties[std::string(field.name)] = schema;
    if (field.required) required.push_back(field.name);
  });
  Json schema{{"type", "object"}, {"properties", properties}, {"additionalProperties", false}};
  if (!required.empty()) schema["required"] = required;
  return schema;
}

}  // namespace

std::string tables_schema(const TableVisit& visit) {
  return object_of(visit).dump(2) + "\n";
}

std::string job_schema() {
  JobConfig job = full_job();
  Json schema = object_of([&](const FieldVisitor& visitor) { visit_fields(visitor, job); });
  schema["required"] = Json::array({"model", "data", "training", "optimizer"});
  Json root{{"$schema", "http://json-schema.org/draft-07/schema#"}, {"title", "A job for Thimble"}};
  root.update(schema);
  return root.dump(2) + "\n";
}

}  // namespace thimble::job
