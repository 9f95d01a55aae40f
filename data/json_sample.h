// One line of a .jsonl file to the parts of a sample, and the messages for lines that do not fit.
#pragma once

#include <string>
#include <string_view>

#include "data/data_spec.h"
#include "data/document_reader.h"

namespace thimble {

/// True if the line holds nothing but spaces and tabs.
bool is_blank(std::string_view line);

/// kText or kPromptCompletion from the keys of `line`. Throws UserError beginning with `where` if
/// they fit neither.
SampleFormat detect_json_format(const std::string& line, const FieldNames& fields,
                                const std::string& where);

/// The sample in `line`. Throws UserError beginning with `where` for bad JSON, a missing field, a
/// wrong type.
DocumentPiece parse_json_sample(const std::string& line, SampleFormat format,
                                const FieldNames& fields, const std::string& where);

}  // namespace thimble
