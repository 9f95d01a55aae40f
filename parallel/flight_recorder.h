// What a rank was last seen doing, in a file of its own that survives the process: phase, step,
// heartbeat and the last operations between ranks. Written without system calls; read by whoever
// looks for the culprit afterwards.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "parallel/communicator.h"

namespace thimble {

/// One operation as recorded; end_ns 0: it has not ended.
struct FlightOp {
  OpChannel channel = OpChannel::kProcesses;
  std::int64_t number = -1;
  std::string operation, subject;
  std::int64_t bytes = 0;
  std::int64_t start_ns = 0, end_ns = 0;  // CLOCK_BOOTTIME
};

/// A file's contents.
struct FlightRecord {
  int rank = 0, ranks = 1;
  std::string host;
  std::int64_t pid = 0;
  std::int64_t heartbeat_ns = 0;  // CLOCK_BOOTTIME of its node
  std::int64_t step = 0;
  std::string phase;
  std::vector<FlightOp> ops;  // by channel, oldest first

  /// "step 12, backward, in reduce_scatter #183 of model.norm.weight"
  std::string text() const;
};

class FlightRecorder {
 public:
  struct Owner {
    int rank = 0, ranks = 1;
    std::string host;
    bool read_elsewhere = false;  // on another node: the file is then flushed with each heartbeat
  };
  /// Creates or replaces the file; a thread of its own writes a heartbeat once a second from now
  /// on.
  FlightRecorder(const std::filesystem::path& file, const Owner& owner);
  ~FlightRecorder();
  FlightRecorder(const FlightRecorder&) = delete;
  FlightRecorder& operator=(const FlightRecorder&) = delete;

  void set_phase(const char* phase);
  void set_step(std::int64_t step);
  /// Starts of one channel come from one thread, and ends.
  void op_event(const OpEvent& event);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The file of rank r in the directory of logs of a run.
std::filesystem::path flight_file(const std::filesystem::path& logs, int rank);

/// Throws UserError if the file is not a flight record; whatever else it holds, it is read safely.
FlightRecord read_flight_record(const std::filesystem::path& file);

/// All that a directory holds, by rank; files that are no flight records are passed over.
std::vector<FlightRecord> read_flight_records(const std::filesystem::path& directory);

/// Names the operation that some ranks are in and others never entered, or where each rank is.
std::string first_divergence(const std::vector<FlightRecord>& records);

}  // namespace thimble
