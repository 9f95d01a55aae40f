// `thimble bench disk`: how fast the disk under a directory is, for state that lies there.
#pragma once

#include <filesystem>
#include <string>

namespace CLI {
class App;
}

namespace thimble {

struct CommandSession;
struct FileSystem;

void add_bench_disk(CLI::App& bench, CommandSession& session);

/// Why the file system of a directory is a bad place for state on disk: it is in memory, or on a
/// network. Empty if it is neither.
std::string file_system_warning(const FileSystem& found, const std::filesystem::path& directory);

}  // namespace thimble
