// Ordered background work. CPU compute runs inline on the caller's thread; copies, files and data
// preparation run on a Stream of their own. Work on a stream must not start a parallel loop.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "core/base/completion.h"

namespace thimble {

/// A worker thread that runs what it is given in order. Destruction finishes what was started.
class Stream {
 public:
  explicit Stream(std::string name);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  /// Enqueues `work`. After a failure later work still runs; each has an error of its own. The
  /// completion may outlive the stream.
  Completion run(std::function<void()> work);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace thimble
