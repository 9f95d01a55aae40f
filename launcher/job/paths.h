// Makes the paths of a job absolute: expands ~ and ${VAR}, resolves against the job file's folder
// or the working directory, finds Hub ids in the local cache. Reads the file system, writes
// nothing.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "launcher/job/reader.h"

namespace thimble::job {

using Environment = std::map<std::string, std::string>;

/// Replaces every path of `draft.config`; mistakes (a variable that is not set, a file that is not
/// there, a Hub id that was not downloaded) go to `draft.errors`.
void resolve_paths(JobDraft& draft, const std::filesystem::path& job_folder,
                   const Environment& environment);

/// A leading ~ and every ${VAR} replaced. Throws UserError if a variable is not set or "${" is not
/// closed.
std::string expand_variables(std::string_view text, const Environment& environment);

/// The snapshot of Hub repository "org/name" in the local cache; empty if it is not there.
std::filesystem::path find_in_hub_cache(std::string_view id, const Environment& environment);

}  // namespace thimble::job
