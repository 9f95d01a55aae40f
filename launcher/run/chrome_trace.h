// Where the time goes: a Chrome trace file (chrome://tracing, Perfetto) and a per-operation table.
// Takes finished intervals; it neither reads clocks nor knows what an operation is.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <string>
#include <string_view>

namespace thimble {

/// Streams complete events ("ph": "X") to a trace file. Safe to call from several threads.
/// The file is a JSON array; viewers also accept it when a killed process left it unclosed.
class TraceWriter {
 public:
  /// Creates or empties the file. Throws UserError if it cannot.
  explicit TraceWriter(const std::filesystem::path& path);
  ~TraceWriter();
  TraceWriter(const TraceWriter&) = delete;
  TraceWriter& operator=(const TraceWriter&) = delete;

  /// One interval in nanoseconds of any monotonic clock; the first event's start becomes time 0 or
  /// near it.
  void add(std::string_view name, std::string_view category, std::int64_t start_ns,
           std::int64_t end_ns, int tid);

  /// Ends the array and closes the file; later calls do nothing. Throws SystemError if bytes were
  /// lost.
  void close();

 private:
  std::mutex mutex_;
  std::filesystem::path path_;
  std::ofstream file_;
  std::int64_t origin_ns_ = 0;
  bool empty_ = true;
};

/// Sums intervals by name and prints them, the longest first. Not synchronised.
class ProfileTable {
 public:
  /// Adds one call of `name`; `flops` may be 0 when it has no meaning for that operation.
  void add(std::string_view name, std::int64_t start_ns, std::int64_t end_ns, double flops = 0);

  /// Name, calls, total ms, share of all entries, mean microseconds and GFLOP/s, one line each,
  /// with a header.
  std::string to_text() const;

 private:
  struct Entry {
    std::int64_t calls = 0;
    std::int64_t total_ns = 0;
    double flops = 0;
  };
  std::map<std::string, Entry, std::less<>> entries_;
};

}  // namespace thimble
