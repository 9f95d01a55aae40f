// Parallel loops over the cores of this process, on threads of our own.
//
// A loop is cut into chunks by its size alone, never by the number of threads, and whoever is free
// takes the next one. So the bits of a result do not depend on threads; a thread that has lost its
// core to another process delays the others by no more than the chunk it holds, and the caller
// waits only for threads that have taken a chunk. Threads that wait sleep after some microseconds.
//
// Waking a sleeping thread takes 5 to 50 us, and up to a time slice of the scheduler (milliseconds)
// where another process runs. So loops over little work run on the calling thread, and, for a while
// after a thread was late, so do loops over somewhat more work.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace thimble {

/// Whether a loop over `elements` values, read and written about once each, is worth other threads.
/// It depends on sizes alone, so that the same job takes the same path every time.
inline constexpr bool is_team_work(std::int64_t elements) {
  return elements > 65536;
}

/// The number of threads that work on a loop of the calling thread, itself included: what
/// set_team_threads() said, else OMP_NUM_THREADS, else the CPUs of the process's affinity. At
/// least 1.
int team_threads();

/// Sets team_threads() for the calling thread; 0 restores the default.
void set_team_threads(int count);

/// Which thread of the team the caller is, from 0 to team_threads() - 1 of the loop's caller.
int team_index();

namespace detail {
using LoopBody = void (*)(void* context, std::int64_t begin, std::int64_t end);
void run_chunks(std::int64_t items, std::int64_t cost, std::int64_t chunk, LoopBody body,
                void* context);
}  // namespace detail

/// Calls body(begin, end) for ranges that cover [0, items), each item once, in any order, by
/// several threads where is_team_work(items * cost); returns when all are done. `cost`: values that
/// an item reads or writes. A loop inside of a loop runs on its own thread. The first exception of
/// a body is thrown here, after all that were begun have ended.
template <typename Body>
void parallel_for(std::int64_t items, std::int64_t cost, Body&& body) {
  constexpr std::int64_t kChunk = 32768;  // values: some 10 us of work
  constexpr std::int64_t kRound = 64;     // items of one value: whole cache lines and vectors
  if (items <= 0) return;
  cost = std::max<std::int64_t>(1, cost);
  if (items == 1 || (items <= INT64_MAX / cost && !is_team_work(items * cost))) {
    body(std::int64_t{0}, items);
    return;
  }
  std::int64_t chunk = std::max<std::int64_t>(1, kChunk / cost);
  if (chunk > kRound) chunk = chunk / kRound * kRound;
  using Plain = std::remove_reference_t<Body>;
  detail::run_chunks(
      items, cost, chunk,
      [](void* context, std::int64_t begin, std::int64_t end) {
        (*static_cast<Plain*>(context))(begin, end);
      },
      const_cast<void*>(static_cast<const void*>(&body)));
}

/// parallel_for() with one call of body(index) per item, for items that are much work each.
template <typename Body>
void parallel_for_each(std::int64_t items, std::int64_t cost, Body&& body) {
  parallel_for(items, cost, [&body](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) body(i);
  });
}

}  // namespace thimble
