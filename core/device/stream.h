// Ordered background work. CPU compute runs inline on the caller's thread; copies, files and data
// preparation run on a Stream of their own. Work on a stream must not start a parallel loop.
#pragma once

#include <functional>
#include <memory>
#include <string>

namespace thimble {

/// Completion of one piece of work, with its error. A value type: copies refer to the same
/// completion.
class Event {
 public:
  Event() = default;

  /// Blocks until the work is done; throws its error, once. A default-made event is done.
  void wait();
  bool done() const;

 private:
  friend class Stream;
  struct State;
  std::shared_ptr<State> state_;
};

/// A worker thread that runs what it is given in order. Destruction finishes what was started and
/// logs errors that nobody waited for.
class Stream {
 public:
  explicit Stream(std::string name);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  /// Enqueues `work`; after a failure later work still runs, each event carries its own error.
  [[nodiscard]] Event run(std::function<void()> work);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thimble
