// One line of a .jsonl file to the parts of a sample, and the messages for lines that do not fit.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "data/data_spec.h"
#include "data/document_reader.h"

namespace thimble {

/// True if the line holds nothing but spaces and tabs.
bool is_blank(std::string_view line);

/// The object that `line` holds, with its keys in their order. Throws UserError beginning with
/// `where` for anything else.
nlohmann::ordered_json parse_json_object(const std::string& line, const std::string& where);

/// The format of `line` by its keys; never kAuto or kTokens. Throws UserError beginning with
/// `where` if they fit none, or several.
SampleFormat detect_json_format(const std::string& line, const FieldNames& fields,
                                const std::string& where);

/// The sample of kText or kPromptCompletion in `line`. Throws UserError beginning with `where` for
/// bad JSON, a missing field, a wrong type.
DocumentPiece parse_json_sample(const std::string& line, SampleFormat format,
                                const FieldNames& fields, const std::string& where);

}  // namespace thimble
