#!/bin/bash
# Trains on 4 hosts, one rank each. Start it with: qsub -v JOB=job.toml examples/pbs.sh
#PBS -l select=4:ncpus=32:mpiprocs=1
#PBS -l walltime=12:00:00

cd "$PBS_O_WORKDIR" || exit 1
thimble launch -n 4 --hostfile "$PBS_NODEFILE" -- train "$JOB"
