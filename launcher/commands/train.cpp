// `thimble train`: a job on one process, on ranks as threads, or as one rank of an MPI program.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>

#include "core/base/error.h"
#include "launcher/commands/command.h"
#include "launcher/commands/train_rank.h"
#include "launcher/launch/rank_monitor.h"
#include "launcher/run/rank_environment.h"
#include "launcher/run/signals.h"
#include "parallel/local_world.h"
#include "parallel/mpi_world.h"

namespace thimble {
namespace {

// An error of one rank ends the others, which would wait for it for ever; the first one is the one
// to report.
int run_one(const TrainArguments& arguments, CommandSession& session, Communicator& comm,
            RankMonitor& monitor, int on_host, bool owns_process) {
  try {
    return train_rank(arguments, session, comm, monitor, on_host, owns_process);
  } catch (const std::exception& e) {
    comm.abort(fmt::format("rank {}: {}", comm.rank(), e.what()));
    throw;
  }
}

int run_simulated(const TrainArguments& arguments, CommandSession& session) {
  LocalWorld world(arguments.simulate);
  std::mutex mutex;
  std::exception_ptr first;
  int exit_code = 0;
  std::vector<std::thread> threads;
  for (int r = 0; r < arguments.simulate; ++r) {
    threads.emplace_back([&, r] {
      const auto comm = world.communicator(r);
      try {
        RankMonitor monitor(r, arguments.simulate);
        const int code = run_one(arguments, session, *comm, monitor, arguments.simulate, false);
        const std::lock_guard lock(mutex);
        exit_code = std::max(exit_code, code);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!first) first = std::current_exception();
      }
    });
  }
  for (std::thread& t : threads) t.join();
  if (first) std::rethrow_exception(first);
  return exit_code;
}

// Ends this rank, and by that all others, before MPI is shut down, which would wait for them. A
// mistake that every rank makes is told by the first.
[[noreturn]] void leave(const CommandSession& session, int rank, const std::string& message,
                        int exit_code) {
  if (rank > 0) std::this_thread::sleep_for(std::chrono::seconds(2));
  report_error(session, message);
  std::fflush(nullptr);
  std::_Exit(exit_code);
}

int run_train(const TrainArguments& arguments, CommandSession& session) {
  const std::optional<RankEnvironment> launched = rank_environment(process_variables());
  const bool is_rank = launched && launched->ranks > 1;
  if (is_rank && launched->rank > 0) session.quiet = true;  // its log file has everything
  session.start();
  outlive_closed_output();
  if (arguments.simulate > 0) {
    if (is_rank)
      throw_user("--simulate {} under {} with {} ranks: choose one", arguments.simulate,
                 launched->source, launched->ranks);
    return run_simulated(arguments, session);
  }
  if (!is_rank) {
    SingleCommunicator alone;
    RankMonitor monitor(0, 1);
    return run_one(arguments, session, alone, monitor, 1, true);
  }
  RankMonitor monitor(launched->rank, launched->ranks);
  const auto comm = make_mpi_world(std::chrono::minutes(10), monitor.listener());
  if (comm->size() != launched->ranks) {
    throw_user("the number of ranks is {} by {} but {} by MPI itself", launched->ranks,
               launched->source, comm->size());
  }
  try {
    return run_one(arguments, session, *comm, monitor, launched->local_ranks, true);
  } catch (const UserError& e) {
    leave(session, launched->rank, e.what(), kExitUser);
  } catch (const std::exception& e) {
    leave(session, launched->rank, e.what(), kExitSystem);
  }
}

}  // namespace

void add_train_command(CLI::App& app, CommandSession& session) {
  auto arguments = std::make_shared<TrainArguments>();
  CLI::App* train = app.add_subcommand(
      "train", "Train the model a job file describes; continues an interrupted run");
  add_job_arguments(*train, *arguments);
  train->add_option("--resume", arguments->resume, "auto, never or must")
      ->check(CLI::IsMember({"auto", "never", "must"}));
  train->add_option("--resume-from", arguments->resume_from,
                    "Continue from this step's checkpoint; later ones are moved aside");
  train->add_flag("--fresh", arguments->fresh, "Move the earlier run aside and start anew");
  train->add_option("--init-from", arguments->init_from, "Start from the weights of another run");
  train->add_option(
      "--trace", arguments->trace,
      "Write a Chrome trace of three steps, after the first two, to this file (rank 0)");
  train
      ->add_option("--simulate", arguments->simulate,
                   "Run this many ranks as threads of this process")
      ->default_str("")
      ->check(CLI::Range(1, 256));
  train->footer(
      "Examples:\n"
      "  thimble train examples/scratch-130m.toml\n"
      "  thimble train job.toml --set training.max_steps=200 --set optimizer.lr=1e-4\n"
      "  mpirun -np 4 --bind-to none thimble train job.toml\n"
      "Exit code 75: saved and stopped on a signal (SIGINT, SIGTERM, SIGHUP, SIGUSR1); the same "
      "command "
      "continues.");
  train->callback([arguments, &session] { session.exit_code = run_train(*arguments, session); });
}

}  // namespace thimble
