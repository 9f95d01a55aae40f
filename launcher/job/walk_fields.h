// Walks over every key of a job and writes values as TOML, for parser, help, schema, resolved job
// and resume, none of which lists keys itself.
#pragma once

#include "launcher/job/job_config.h"

namespace thimble::job {

/// A field's value as TOML, empty if it is not set ("auto" and defaults are values). Tables are
/// written inline.
std::string value_text(const Field& field);

/// A TOML basic string.
std::string toml_string(std::string_view text);

/// The shortest TOML float that reads back as `value`.
std::string float_text(double value);

/// Calls `leaf(key, field)` for every field that is no table, depth first in the order of the file.
/// Keys are dotted, elements of lists indexed: "data.train[0].weight".
void walk_fields(JobConfig& job, const std::function<void(const std::string&, Field&)>& leaf);

/// A job in which every optional table exists and every list of tables has one element; for
/// documentation.
JobConfig full_job();

/// Every key that is no table, dotted, lists without an index: what `--set` and shell completion
/// know.
std::vector<std::string> all_job_keys();

/// `key` without the indices of lists.
std::string without_indices(std::string_view key);

}  // namespace thimble::job
